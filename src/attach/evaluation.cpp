// Evaluates an attachment for a row: what message it makes of it. Session's backend.
#include "attach/evaluation.hpp"

#include "attach/as_declared.hpp"
#include "debezium/router.hpp"
#include "session/message_rules.hpp"
#include "session/value_bytes.hpp"
#include "shared/headers.hpp"

namespace outbox {

// Expressions that can run: once at a time, and for one transaction, because functions keep in them
// what they remember between calls. While they run they belong to the current subtransaction, and
// go with it if it fails; otherwise to the transaction.
struct ReadyExpressions {
    MemoryContext context;
    ExprContext* row;
    ExprState** states;
};

namespace {

ReadyExpressions* make_ready(const Attachment* attachment) {
    MemoryContext context =
        AllocSetContextCreate(CurTransactionContext, "outbox expressions", ALLOCSET_SMALL_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    ReadyExpressions* made = static_cast<ReadyExpressions*>(palloc0(sizeof(ReadyExpressions)));
    made->context = context;
    made->row = CreateStandaloneExprContext();
    made->states = static_cast<ExprState**>(
        palloc0(sizeof(ExprState*) * static_cast<size_t>(attachment->part_count)));
    for (int i = 0; i < attachment->part_count; ++i) {
        const Part& part = attachment->parts[i];
        if (part.source == Part::Source::Expression)
            made->states[i] = ExecInitExpr(part.expression, nullptr);
    }
    MemoryContextSwitchTo(caller);
    return made;
}

// One row and what is made of it. Takes the attachment's expressions for itself: a function that
// they call may insert into the same table.
class Row {
  public:
    Row(Attachment* attachment, TupleTableSlot* new_row, TupleTableSlot* old_row)
        : attachment_(attachment), new_(new_row), old_(old_row) {
        if (!attachment->has_expressions) return;
        ready_ = taken(attachment);
        if (!ready_) ready_ = make_ready(attachment);
        ready_->row->ecxt_outertuple = new_row;
        ready_->row->ecxt_innertuple = old_row;
    }
    // By hand: after an error nobody shall use them again.
    void give_back() {
        if (!ready_) return;
        // A row that was written on the way has left some there.
        if (ReadyExpressions* other = taken(attachment_)) MemoryContextDelete(other->context);
        MemoryContextSetParent(ready_->context, TopTransactionContext);
        attachment_->ready = ready_;
        attachment_->ready_in = compat::my_local_transaction();
    }

    bool has(PartName name) const { return attachment_->part(name).source != Part::Source::Absent; }

    Datum value(PartName name, bool* null) const {
        const Part& part = attachment_->part(name);
        switch (part.source) {
            case Part::Source::Constant:
                *null = part.constant_is_null;
                return part.constant;
            case Part::Source::New:
                return slot_getattr(new_, part.column, null);
            case Part::Source::Old:
                return slot_getattr(old_, part.column, null);
            case Part::Source::Expression:
                return ExecEvalExprSwitchContext(ready_->states[static_cast<int>(name)],
                                                 ready_->row, null);
            case Part::Source::Absent:
                break;
        }
        *null = true;
        return static_cast<Datum>(0);
    }

    // nullptr: NULL.
    const char* bytes(PartName name, size_t* length) const {
        bool null;
        Datum datum = value(name, &null);
        if (null) return nullptr;
        const Part& part = attachment_->part(name);
        return value_bytes(datum, part.type, length, part.output);
    }

  private:
    // nullptr: there are none. Those of another transaction are gone, and must not be looked at.
    static ReadyExpressions* taken(Attachment* attachment) {
        ReadyExpressions* ready = attachment->ready;
        attachment->ready = nullptr;
        if (!ready || attachment->ready_in != compat::my_local_transaction()) return nullptr;
        MemoryContextSetParent(ready->context, CurTransactionContext);
        ResetExprContext(ready->row);
        return ready;
    }

    Attachment* attachment_;
    TupleTableSlot* new_;
    TupleTableSlot* old_;
    ReadyExpressions* ready_ = nullptr;
};

bool is_wanted(const Row& row) {
    if (!row.has(PartName::When)) return true;
    bool null;
    bool wanted = DatumGetBool(row.value(PartName::When, &null));
    return wanted && !null;
}

void fill(const Row& row, MessageParts* parts, size_t* headers_bytes) {
    *parts = {};
    parts->topic = row.bytes(PartName::Topic, &parts->topic_length);
    check_topic_is_there(parts->topic);
    parts->key = row.bytes(PartName::Key, &parts->key_length);
    parts->payload = row.bytes(PartName::Payload, &parts->payload_length);
    bool null;
    Datum headers = row.value(PartName::Headers, &null);
    *headers_bytes = 0;
    if (!null) {
        parts->headers = DatumGetJsonbP(headers);
        check_headers(parts->headers);
        (void)append_headers(nullptr, parts->headers, nullptr, headers_bytes);
    }
    parts->partition = DatumGetInt32(row.value(PartName::Partition, &null));
    parts->has_partition = !null;
}

bool evaluate(Attachment* attachment, TupleTableSlot* new_row, TupleTableSlot* old_row,
              MessageParts* parts, size_t* headers_bytes) {
    Row row(attachment, new_row, old_row);
    bool wanted = is_wanted(row);
    if (wanted) fill(row, parts, headers_bytes);
    row.give_back();
    return wanted;
}

}  // namespace

void check_can_run(Attachment* attachment) {
    if (!attachment->has_expressions) return;
    AsDeclared as_declared(attachment->owner);
    Row row(attachment, nullptr, nullptr);
    row.give_back();
    as_declared.end();
}

bool make_message(Attachment* attachment, TupleTableSlot* new_row, TupleTableSlot* old_row,
                  MessageParts* parts, size_t* headers_bytes) {
    if (attachment->router)
        return debezium::make_record(attachment->router, attachment->parts, new_row, parts,
                                     headers_bytes);
    if (!attachment->has_expressions)
        return evaluate(attachment, new_row, old_row, parts, headers_bytes);
    AsDeclared as_declared(attachment->owner, attachment->calls_functions_of_users);
    bool wanted = evaluate(attachment, new_row, old_row, parts, headers_bytes);
    as_declared.end();
    return wanted;
}

}  // namespace outbox
