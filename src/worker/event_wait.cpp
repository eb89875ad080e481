// What a relay sleeps on: its latch, and the socket of its sink. Relay process.
#include "worker/event_wait.hpp"

namespace outbox {

namespace {

constexpr int kSocketEvent = 2;  // the place of the socket in the set

}  // namespace

void EventWait::watch(int socket) {
    if (set_) FreeWaitEventSet(set_);
    set_ = compat::create_wait_event_set(TopMemoryContext, kSocketEvent + 1);
    AddWaitEventToSet(set_, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
    AddWaitEventToSet(set_, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
    socket_ = socket;
    writable_ = false;
    if (socket_ >= 0) AddWaitEventToSet(set_, WL_SOCKET_READABLE, socket_, nullptr, nullptr);
}

bool EventWait::wait(long timeout_ms, bool writable) {
    if (socket_ >= 0 && writable != writable_) {
        ModifyWaitEvent(set_, kSocketEvent,
                        WL_SOCKET_READABLE | (writable ? WL_SOCKET_WRITEABLE : 0), nullptr);
        writable_ = writable;
    }
    WaitEvent events[kSocketEvent + 1];
    int count = WaitEventSetWait(set_, timeout_ms, events, lengthof(events),
                                 compat::wait_event("OutboxRelayMain"));
    bool woken = false;
    for (int i = 0; i < count; ++i)
        woken = woken || (events[i].events & WL_LATCH_SET) != 0;
    return woken;
}

bool EventWait::wait_for_latch(long timeout_ms) {
    return (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
                      compat::wait_event("OutboxRelayMain")) &
            WL_LATCH_SET) != 0;
}

}  // namespace outbox
