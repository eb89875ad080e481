// Positions of messages, from their sequence. Session's backend takes them, the relay looks after
// it.
#include "storage/positions.hpp"

#include "shared/shared_state.hpp"
#include "storage/backlog.hpp"

namespace outbox {

namespace {

// As the bootstrap superuser: the caller of emit() has no right on the sequence.
template <typename Work>
int64 as_superuser(Work work) {
    Oid user;
    int context;
    GetUserIdAndSecContext(&user, &context);
    SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
    int64 result = work();
    SetUserIdAndSecContext(user, context);
    return result;
}

void set_sequence(Oid sequence, int64 value) {
    (void)as_superuser([&] {
        return DatumGetInt64(
            DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(value)));
    });
}

int64 last_given(Oid sequence) {
    return as_superuser([&] { return last_position(sequence); });
}

}  // namespace

bool set_forward(Oid sequence, int64 passed) {
    if (last_given(sequence) >= passed) return false;
    // One at a time, and with another look: it must never be set back in its turn. Whoever takes a
    // position in between gets one that is too low as well, and comes here.
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    bool behind = last_given(sequence) < passed;
    if (behind) set_sequence(sequence, passed);
    LWLockRelease(shared->lock);
    return behind;
}

int64 next_position(Oid sequence, int64 passed) {
    int64 position = nextval_internal(sequence, false);
    while (position <= passed) {
        if (set_forward(sequence, passed)) {
            ereport(
                WARNING,
                (errmsg("outbox.message_position had been set back; it goes on after " INT64_FORMAT,
                        passed)));
        }
        position = nextval_internal(sequence, false);
    }
    return position;
}

}  // namespace outbox
