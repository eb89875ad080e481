// Faults of the operating system on demand: a wrong clock, disks that fail, threads that cannot be made, a
// name server that never answers. Loaded with LD_PRELOAD into test servers and the sinks they start.
//
// The folder $OUTBOX_PRELOAD_DIR says what is wrong at present:
//   clock            8 bytes: microseconds to add to the time of day (the monotonic clock stays right)
//   fsync-fails      fsync and fdatasync: EIO
//   threads-fail     no thread can be made
//   resolver-hangs   getaddrinfo never returns, in sinks
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char directory[256];
static const volatile int64_t* offset_us;
static __typeof__(&clock_gettime) real_clock_gettime;

__attribute__((constructor)) static void start(void) {
    char path[300];
    const char* given = getenv("OUTBOX_PRELOAD_DIR");
    real_clock_gettime = REAL(clock_gettime);
    if (!given) return;
    snprintf(directory, sizeof(directory), "%s", given);
    snprintf(path, sizeof(path), "%s/clock", given);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void* mapped = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) offset_us = mapped;
}

static int told(const char* what) {
    char path[300];
    int error = errno;
    snprintf(path, sizeof(path), "%s/%s", directory, what);
    int there = directory[0] && access(path, F_OK) == 0;
    errno = error;
    return there;
}

static int64_t shifted_ns(void) {
    struct timespec now;
    real_clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec + (offset_us ? *offset_us * 1000 : 0);
}

static struct timespec spec_of(int64_t ns) {
    struct timespec spec = {ns / 1000000000, ns % 1000000000};
    return spec;
}

int clock_gettime(clockid_t clock, struct timespec* spec) {
    if (!real_clock_gettime) real_clock_gettime = REAL(clock_gettime);
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return real_clock_gettime(clock, spec);
    *spec = spec_of(shifted_ns());
    return 0;
}

int timespec_get(struct timespec* spec, int base) {
    return clock_gettime(CLOCK_REALTIME, spec) == 0 ? base : 0;
}

int gettimeofday(struct timeval* restrict value, void* restrict zone) {
    (void)zone;
    int64_t ns = shifted_ns();
    value->tv_sec = ns / 1000000000;
    value->tv_usec = ns % 1000000000 / 1000;
    return 0;
}

time_t time(time_t* result) {
    time_t now = shifted_ns() / 1000000000;
    if (result) *result = now;
    return now;
}

// Waits until a time of day, which may be set while it waits.
int cnd_timedwait(cnd_t* restrict condition, mtx_t* restrict mutex, const struct timespec* restrict until) {
    __typeof__(&cnd_timedwait) wait = REAL(cnd_timedwait);
    int64_t end = until->tv_sec * INT64_C(1000000000) + until->tv_nsec;
    for (;;) {
        int64_t left = end - shifted_ns();
        if (left < 0) left = 0;
        int last = left <= 50000000;
        struct timespec now;
        real_clock_gettime(CLOCK_REALTIME, &now);
        struct timespec portion =
            spec_of(now.tv_sec * INT64_C(1000000000) + now.tv_nsec + (last ? left : 50000000));
        int result = wait(condition, mutex, &portion);
        if (result != thrd_timedout || last) return result;
    }
}

int fsync(int fd) {
    if (!told("fsync-fails")) return REAL(fsync)(fd);
    errno = EIO;
    return -1;
}

int fdatasync(int fd) {
    if (!told("fsync-fails")) return REAL(fdatasync)(fd);
    errno = EIO;
    return -1;
}

int thrd_create(thrd_t* thread, thrd_start_t function, void* argument) {
    return told("threads-fail") ? thrd_nomem : REAL(thrd_create)(thread, function, argument);
}

int pthread_create(pthread_t* restrict thread, const pthread_attr_t* restrict attributes,
                   void* (*function)(void*), void* restrict argument) {
    return told("threads-fail") ? EAGAIN : REAL(pthread_create)(thread, attributes, function, argument);
}

int getaddrinfo(const char* restrict node, const char* restrict service,
                const struct addrinfo* restrict hints, struct addrinfo** restrict result) {
    if (strncmp(program_invocation_short_name, "outbox-", 7) == 0) {
        while (told("resolver-hangs"))
            usleep(20000);
    }
    return REAL(getaddrinfo)(node, service, hints, result);
}
