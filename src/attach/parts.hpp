// The parts of a message as attach() is given them, and the SQL that they mean. Session's backend.
#pragma once

#include "attach/attachment.hpp"

namespace outbox {

// Kinds of row events.
class Events {
  public:
    void add(RowEvent event) { bits_ |= bit(event); }
    bool has(RowEvent event) const { return (bits_ & bit(event)) != 0; }
    bool empty() const { return bits_ == 0; }

  private:
    static unsigned bit(RowEvent event) { return 1u << static_cast<unsigned>(event); }
    unsigned bits_;
};

// An SQL expression over NEW, OLD and TG_OP for a part; nullptr: the message has none.
//
// `given` is a column's name, or an expression. A topic can also be one itself: what looks like
// one, is no column, and does not begin with NEW or OLD. A key that is not given is the table's
// primary key: its column, or an object of its columns; none if there is no primary key. A payload
// that is not given is the whole row. Both, and columns, are those of OLD where the row is deleted.
const char* part_expression(Relation table, PartName part, const char* given, Events events);

// Raises 42601 unless `text` is one SQL expression, 42703 where it names a column of NEW or OLD
// that the table does not have.
void check_is_expression(const char* text, Relation table);

}  // namespace outbox
