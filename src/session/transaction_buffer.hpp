// The messages of one transaction between emit() and its commit. Session's backend.
//
// States: empty -> filled (append) -> empty (release before the end of its transaction, forget
// after it). A room that the session keeps, then memory of the transaction up to a limit, then a
// temporary file; what a ROLLBACK TO undoes is cut off at the end, so order costs nothing.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// One message as it is kept in the buffer: this head, then topic, key, payload and headers as
// varlenas with four-byte headers, each aligned to four bytes, so that they serve as Datums where
// they lie.
struct BufferedMessage {
    uint32 size;  // of everything, a multiple of eight
    int32 partition;
    uint8 id[UUID_LEN];
    uint32 topic;  // offsets from the head; 0: NULL
    uint32 key;
    uint32 payload;
    uint32 headers;
    bool has_partition;

    Datum value(uint32 offset) const {
        return PointerGetDatum(reinterpret_cast<const char*>(this) + offset);
    }
};

// What goes into one message; texts are UTF-8 already.
struct MessageParts {
    uint8 id[UUID_LEN];
    const char* topic;
    size_t topic_length;
    const char* key;  // nullptr: none
    size_t key_length;
    const char* payload;  // nullptr: a tombstone
    size_t payload_length;
    const Jsonb* headers;  // nullptr: none
    bool has_partition;
    int32 partition;
};

class TransactionBuffer {
  public:
    // Adds a message in the current subtransaction. Raises on lack of memory or of temporary file
    // space.
    void append(const MessageParts& parts);

    // A subtransaction ended: its messages become its parent's, or are dropped.
    void subtransaction_committed(SubTransactionId child, SubTransactionId parent);
    void subtransaction_aborted(SubTransactionId child);

    // Empties the buffer, memory and file. For a transaction that is still healthy.
    void release();

    // Empties the buffer of a transaction that has ended, and with it memory and file. Cannot fail.
    void forget();

    int64 count() const { return count_; }
    // Room that the messages take here.
    uint64 bytes() const { return in_file_ + used_; }
    bool empty() const { return count_ == 0; }

    // Reads the messages in order: begin_read, then next until nullptr. A message lies in the
    // buffer or, if it comes from the temporary file, in the current memory context.
    void begin_read();
    const BufferedMessage* next();

  private:
    // Where a subtransaction's messages begin.
    struct Mark {
        SubTransactionId subtransaction;
        int64 count;
        uint64 offset;
    };

    void mark_subtransaction();
    void grow_marks();
    void cut(const Mark& mark);
    char* reserve(size_t size);
    void grow(size_t least);
    MemoryContext context();
    void spill();

    MemoryContext context_ = nullptr;  // child of the transaction's; made when it is needed
    char* memory_ = nullptr;           // messages after the file's
    size_t used_ = 0;
    size_t capacity_ = 0;
    BufFile* file_ = nullptr;
    uint64 in_file_ = 0;  // bytes of messages in the file
    int64 count_ = 0;
    Mark first_marks_[4];
    Mark* marks_ = nullptr;
    int mark_count_ = 0;
    int mark_capacity_ = 0;
    uint64 read_offset_ = 0;
    int64 read_count_ = 0;
};

// This session's buffer.
extern TransactionBuffer transaction_buffer;

}  // namespace outbox
