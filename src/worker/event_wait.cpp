// What a relay sleeps on: its latch, and the socket of its sink. Relay process.
#include "worker/event_wait.hpp"

namespace outbox {

namespace {

constexpr int kSocketEvent = 2;  // the place of the socket in the set

WaitEventSet* make_set() {
    WaitEventSet* set = compat::create_wait_event_set(TopMemoryContext, kSocketEvent + 1);
    AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
    AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
    return set;
}

bool sleep_on(WaitEventSet* set, long timeout_ms, bool* over) {
    WaitEvent events[kSocketEvent + 1];
    int count = WaitEventSetWait(set, timeout_ms, events, lengthof(events),
                                 compat::wait_event("OutboxRelayMain"));
    *over = count == 0;
    bool woken = false;
    for (int i = 0; i < count; ++i)
        woken = woken || (events[i].events & WL_LATCH_SET) != 0;
    return woken;
}

}  // namespace

void EventWait::watch(int socket) {
    if (set_) FreeWaitEventSet(set_);
    set_ = make_set();
    if (!deaf_) deaf_ = make_set();
    socket_ = socket;
    writable_ = false;
    if (socket_ >= 0) AddWaitEventToSet(set_, WL_SOCKET_READABLE, socket_, nullptr, nullptr);
}

bool EventWait::wait(long timeout_ms, bool writable, long deaf_ms) {
    bool over;
    if (deaf_ms > 0 && (timeout_ms < 0 || deaf_ms < timeout_ms)) {
        bool woken = sleep_on(deaf_, deaf_ms, &over);
        if (!over) return woken;
        if (timeout_ms > 0) timeout_ms -= deaf_ms;
    }
    if (socket_ >= 0 && writable != writable_) {
        ModifyWaitEvent(set_, kSocketEvent,
                        WL_SOCKET_READABLE | (writable ? WL_SOCKET_WRITEABLE : 0), nullptr);
        writable_ = writable;
    }
    return sleep_on(set_, timeout_ms, &over);
}

}  // namespace outbox
