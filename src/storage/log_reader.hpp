// Reads the message log in the order of positions, across all segments. Relay, and sessions for
// status.
//
// It looks at every row that is physically there and says what it is under the snapshot, because
// the relay has to tell a message that is not committed yet from one that never will be.
#pragma once

#include "pg/postgres.hpp"
#include "storage/schema.hpp"
#include "storage/segment_scan.hpp"

namespace outbox {

// What stands at a position.
enum class RowKind : uint8_t {
    End,         // nothing more in the range
    Visible,     // a committed message
    InProgress,  // its transaction had not ended when the snapshot was taken
    Dead,        // its transaction aborted
};

// A row as it was found. Pointers are valid until the next call of the reader.
struct Row {
    int64 position;
    TransactionId owner;  // the transaction that wrote it, or FrozenTransactionId
    // Filled for visible rows, on LogReader::load:
    int64 time_ms;  // since 1970
    TimestampTz time;
    const pg_uuid_t* id;
    bool has_partition;
    int32 partition;
    const char* topic;
    uint32 topic_length;
    const char* key;  // nullptr: none
    uint32 key_length;
    const char* payload;  // nullptr: a tombstone
    uint32 payload_length;
    const Jsonb* headers;  // nullptr: none
};

// Milliseconds since 1970-01-01 UTC.
inline int64 unix_milliseconds(TimestampTz time) {
    return time / 1000 +
           static_cast<int64>(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;
}

class LogReader {
  public:
    // Opens the segments under the active snapshot. Takes AccessShareLock on each; with `wait`
    // false it returns false instead of waiting for one.
    bool open(const Schema& schema, Snapshot snapshot, bool wait);
    void close();

    // Continues with the rows of positions `from` to `to`, both included.
    void seek(int64 from, int64 to);

    // The next row of the range, by position.
    RowKind next(Row* row);

    // Reads the values of the row that next() just called visible; large values are fetched into
    // the current memory context.
    void load(Row* row);

  private:
    struct Segment {
        Relation heap;
        Relation index;
        SegmentScan scan;
    };

    Snapshot snapshot_ = nullptr;
    Segment segments_[kSegments] = {};
    int count_ = 0;
    SegmentScan* current_ = nullptr;  // has the row that was returned last
};

}  // namespace outbox
