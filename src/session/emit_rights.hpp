// Which topics a user may emit to. Session's backend.
#pragma once

#include "pg/postgres.hpp"

namespace outbox {

// Raises 42501 unless `user` may emit to `topic` by means of `function`, the overload of emit()
// that was called, or that stands for the others.
//
// Where the server has let a call happen, somebody whose rights the user has was given EXECUTE.
// Each entry of the function's access list that gives it to PUBLIC or to a role whose privileges
// the user has counts: for every topic; or, where the same role has USAGE on the domain
// outbox.topic_pattern, for the patterns that outbox.emit_grant has for that role. That the mark is
// a privilege and not a row makes what is lost (a dump without data, say) a right that is lost,
// never one that grows.
void check_may_emit(Oid user, Oid function, const char* topic, size_t length);

}  // namespace outbox
