// The messages of one transaction between emit() and its commit. Session's backend.
#include "session/transaction_buffer.hpp"

namespace outbox {

TransactionBuffer transaction_buffer;

namespace {

// Where the messages of every transaction begin. A page that was never needed is not there; what
// fits costs no allocation, and no copying as it grows.
alignas(MAXIMUM_ALIGNOF) char first_room[64 * 1024];

// As much stays in memory as the server gives a hash table: work_mem times hash_mem_multiplier.
size_t memory_limit() {
    return get_hash_memory_limit();
}

uint32 put_varlena(char* start, uint32* at, const char* data, size_t length) {
    *at = INTALIGN(*at);
    uint32 offset = *at;
    SET_VARSIZE(start + offset, length + VARHDRSZ);
    memcpy(VARDATA(start + offset), data, length);
    *at += static_cast<uint32>(length + VARHDRSZ);
    return offset;
}

}  // namespace

void TransactionBuffer::append(const MessageParts& parts) {
    mark_subtransaction();
    size_t headers_length = parts.headers ? VARSIZE(parts.headers) - VARHDRSZ : 0;
    size_t size = MAXALIGN(sizeof(BufferedMessage) + parts.topic_length + parts.key_length +
                           parts.payload_length + headers_length + 4 * (VARHDRSZ + ALIGNOF_INT));
    char* start = reserve(size);
    BufferedMessage* message = reinterpret_cast<BufferedMessage*>(start);
    memset(static_cast<void*>(message), 0, sizeof(*message));
    memcpy(message->id, parts.id, UUID_LEN);
    message->has_partition = parts.has_partition;
    message->partition = parts.partition;
    uint32 at = sizeof(BufferedMessage);
    message->topic = put_varlena(start, &at, parts.topic, parts.topic_length);
    if (parts.key) message->key = put_varlena(start, &at, parts.key, parts.key_length);
    if (parts.payload)
        message->payload = put_varlena(start, &at, parts.payload, parts.payload_length);
    if (parts.headers) {
        message->headers =
            put_varlena(start, &at, VARDATA(const_cast<Jsonb*>(parts.headers)), headers_length);
    }
    message->size = static_cast<uint32>(MAXALIGN(at));
    used_ += message->size;
    ++count_;
}

// Room for `size` bytes behind what is used; the caller adds what it really used.
char* TransactionBuffer::reserve(size_t size) {
    if (!memory_) {
        memory_ = first_room;
        capacity_ = sizeof(first_room);
    }
    if (used_ > 0 && used_ + size > memory_limit()) spill();
    if (used_ + size > capacity_) grow(used_ + size);
    return memory_ + used_;
}

void TransactionBuffer::grow(size_t least) {
    size_t capacity = capacity_;
    while (capacity < least)
        capacity *= 2;
    if (memory_ == first_room) {
        char* larger = static_cast<char*>(MemoryContextAllocHuge(context(), capacity));
        memcpy(larger, memory_, used_);
        memory_ = larger;
    } else {
        memory_ = static_cast<char*>(repalloc_huge(memory_, capacity));
    }
    capacity_ = capacity;
}

// What does not fit into the first room is the transaction's.
MemoryContext TransactionBuffer::context() {
    if (!context_) {
        context_ =
            AllocSetContextCreate(TopTransactionContext, "outbox messages", ALLOCSET_DEFAULT_SIZES);
    }
    return context_;
}

// Moves what is in memory to the end of the file.
void TransactionBuffer::spill() {
    MemoryContext caller = MemoryContextSwitchTo(context());
    ResourceOwner owner = CurrentResourceOwner;
    // The file belongs to the whole transaction, not to the portal or subtransaction that is
    // running.
    CurrentResourceOwner = TopTransactionResourceOwner;
    PG_TRY();
    {
        if (!file_) file_ = BufFileCreateTemp(false);
        // Not necessarily where the file stands: a cut may have left older bytes behind, or a
        // reader its place.
        if (BufFileSeek(file_, 0, static_cast<off_t>(in_file_), SEEK_SET) != 0) {
            elog(ERROR, "could not seek in temporary file");
        }
        BufFileWrite(file_, memory_, used_);
    }
    PG_FINALLY();
    { CurrentResourceOwner = owner; }
    PG_END_TRY();
    MemoryContextSwitchTo(caller);
    in_file_ += used_;
    used_ = 0;
}

// Notes where the current subtransaction's messages begin, on its first one.
void TransactionBuffer::mark_subtransaction() {
    SubTransactionId current = GetCurrentSubTransactionId();
    if (mark_count_ > 0 && marks_[mark_count_ - 1].subtransaction == current) return;
    if (mark_count_ == mark_capacity_) grow_marks();
    marks_[mark_count_++] = Mark{current, count_, in_file_ + used_};
}

void TransactionBuffer::grow_marks() {
    if (!marks_) {
        marks_ = first_marks_;
        mark_capacity_ = lengthof(first_marks_);
        return;
    }
    int capacity = mark_capacity_ * 2;
    if (marks_ == first_marks_) {
        Mark* more = static_cast<Mark*>(MemoryContextAlloc(context(), sizeof(Mark) * capacity));
        memcpy(more, marks_, sizeof(first_marks_));
        marks_ = more;
    } else {
        marks_ = static_cast<Mark*>(repalloc(marks_, sizeof(Mark) * capacity));
    }
    mark_capacity_ = capacity;
}

void TransactionBuffer::subtransaction_committed(SubTransactionId child, SubTransactionId parent) {
    if (mark_count_ == 0 || marks_[mark_count_ - 1].subtransaction != child) return;
    if (mark_count_ > 1 && marks_[mark_count_ - 2].subtransaction == parent) {
        --mark_count_;
    } else {
        marks_[mark_count_ - 1].subtransaction = parent;
    }
}

void TransactionBuffer::subtransaction_aborted(SubTransactionId child) {
    if (mark_count_ == 0 || marks_[mark_count_ - 1].subtransaction != child) return;
    cut(marks_[--mark_count_]);
}

void TransactionBuffer::cut(const Mark& mark) {
    count_ = mark.count;
    if (mark.offset >= in_file_) {
        used_ = static_cast<size_t>(mark.offset - in_file_);
    } else {
        in_file_ = mark.offset;
        used_ = 0;
    }
}

void TransactionBuffer::release() {
    if (file_) BufFileClose(file_);
    if (context_) MemoryContextDelete(context_);
    forget();
}

void TransactionBuffer::forget() {
    *this = TransactionBuffer();
}

void TransactionBuffer::begin_read() {
    read_offset_ = 0;
    read_count_ = 0;
    if (file_ && BufFileSeek(file_, 0, 0, SEEK_SET) != 0)
        elog(ERROR, "could not rewind temporary file");
}

const BufferedMessage* TransactionBuffer::next() {
    if (read_count_ == count_) return nullptr;
    const BufferedMessage* message = nullptr;
    if (read_offset_ < in_file_) {
        BufferedMessage head;
        compat::read_exactly(file_, &head, sizeof(head));
        char* copy = static_cast<char*>(MemoryContextAllocHuge(CurrentMemoryContext, head.size));
        memcpy(copy, &head, sizeof(head));
        compat::read_exactly(file_, copy + sizeof(head), head.size - sizeof(head));
        message = reinterpret_cast<const BufferedMessage*>(copy);
    } else {
        message = reinterpret_cast<const BufferedMessage*>(memory_ + (read_offset_ - in_file_));
    }
    read_offset_ += message->size;
    ++read_count_;
    return message;
}

}  // namespace outbox
