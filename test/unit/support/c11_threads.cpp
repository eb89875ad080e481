// C11's threads by way of POSIX threads, for builds with the thread sanitizer: it watches
// pthread_create and pthread_mutex_lock, but not the functions of <threads.h>, and crashes in a
// thread that it has not seen begin. librdkafka calls those; here it finds these instead.
#include <pthread.h>
#include <threads.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>

namespace {

// glibc's objects are the POSIX ones under other names.
static_assert(sizeof(mtx_t) >= sizeof(pthread_mutex_t) && sizeof(cnd_t) >= sizeof(pthread_cond_t));
static_assert(sizeof(thrd_t) == sizeof(pthread_t) && sizeof(once_flag) == sizeof(pthread_once_t));

pthread_mutex_t* mutex_of(mtx_t* mutex) {
    return reinterpret_cast<pthread_mutex_t*>(mutex);
}
pthread_cond_t* condition_of(cnd_t* condition) {
    return reinterpret_cast<pthread_cond_t*>(condition);
}

int result(int error) {
    switch (error) {
        case 0:
            return thrd_success;
        case ETIMEDOUT:
            return thrd_timedout;
        case ENOMEM:
            return thrd_nomem;
        default:
            return thrd_error;
    }
}

struct Start {
    thrd_start_t function;
    void* argument;
};

void* run(void* start) {
    const Start copy = *static_cast<Start*>(start);
    std::free(start);
    return reinterpret_cast<void*>(static_cast<intptr_t>(copy.function(copy.argument)));
}

}  // namespace

extern "C" {

int thrd_create(thrd_t* thread, thrd_start_t function, void* argument) {
    auto* start = static_cast<Start*>(std::malloc(sizeof(Start)));
    *start = {function, argument};
    return result(pthread_create(thread, nullptr, run, start));
}

int thrd_join(thrd_t thread, int* status) {
    void* value = nullptr;
    int error = pthread_join(thread, &value);
    if (status != nullptr) *status = static_cast<int>(reinterpret_cast<intptr_t>(value));
    return result(error);
}

int mtx_init(mtx_t* mutex, int type) noexcept {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    if ((type & mtx_recursive) != 0)
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    int error = pthread_mutex_init(mutex_of(mutex), &attributes);
    pthread_mutexattr_destroy(&attributes);
    return result(error);
}
void mtx_destroy(mtx_t* mutex) noexcept {
    pthread_mutex_destroy(mutex_of(mutex));
}
int mtx_lock(mtx_t* mutex) {
    return result(pthread_mutex_lock(mutex_of(mutex)));
}
int mtx_unlock(mtx_t* mutex) noexcept {
    return result(pthread_mutex_unlock(mutex_of(mutex)));
}

int cnd_init(cnd_t* condition) noexcept {
    return result(pthread_cond_init(condition_of(condition), nullptr));
}
void cnd_destroy(cnd_t* condition) noexcept {
    pthread_cond_destroy(condition_of(condition));
}
int cnd_signal(cnd_t* condition) noexcept {
    return result(pthread_cond_signal(condition_of(condition)));
}
int cnd_broadcast(cnd_t* condition) noexcept {
    return result(pthread_cond_broadcast(condition_of(condition)));
}
int cnd_wait(cnd_t* condition, mtx_t* mutex) {
    return result(pthread_cond_wait(condition_of(condition), mutex_of(mutex)));
}
int cnd_timedwait(cnd_t* condition, mtx_t* mutex, const timespec* until) {
    return result(pthread_cond_timedwait(condition_of(condition), mutex_of(mutex), until));
}

void call_once(once_flag* flag, void (*function)(void)) {
    pthread_once(reinterpret_cast<pthread_once_t*>(flag), function);
}

}  // extern "C"
