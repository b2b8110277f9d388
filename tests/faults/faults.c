/* Counts the system calls by which a process changes files below a folder, and makes the n-th of them go wrong.
 *
 * Preloaded (LD_PRELOAD), it stands in front of the C library. It does nothing until it is armed: by `faults_arm`, or
 * at the start of a process by the environment (SWEEP_FAULT_ROOT, _KIND, _AT, _ERROR, _LASTING, _SHIFT_S, _CHILDREN,
 * _TRACE: see `struct plan`). Only the armed process counts; with `children`, so does each process that it forks or
 * starts, on its own.
 *
 * Every call here goes to the kernel directly, so nothing has to be looked up and no function of ours is met twice.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { COUNT, KILL, TORN, FAIL, CLOCK };

static struct plan {
    char root[PATH_MAX];  /* operations below it count */
    char cured[PATH_MAX]; /* root.ok: once it is there, lasting failures are over */
    char clock[PATH_MAX]; /* root.clock: once it is there, the clock is off by the seconds that it holds */
    enum kind kind;
    long at;        /* number of the operation that is struck; the first one is 1 */
    int error;      /* errno of FAIL */
    int lasting;    /* FAIL: all operations from there on */
    double shift_s; /* CLOCK: how far the clock jumps */
    int children;
    int trace; /* file that each operation is written to, or -1 */
} plan = {.trace = -1};

static pid_t armed; /* 0: nobody */
static long count;
static double shift_s;

/* --- Arming --------------------------------------------------------------------------------------------------- */

void faults_arm(const char *root, int kind, long at, int error, int lasting, double shift, int children,
                const char *trace) {
    snprintf(plan.root, sizeof plan.root, "%s", root);
    snprintf(plan.cured, sizeof plan.cured, "%s.ok", root);
    snprintf(plan.clock, sizeof plan.clock, "%s.clock", root);
    plan.kind = kind;
    plan.at = at;
    plan.error = error;
    plan.lasting = lasting;
    plan.shift_s = shift;
    plan.children = children;
    plan.trace = trace && *trace
        ? syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    count = 0;
    shift_s = 0;
    armed = getpid();
}

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

__attribute__((constructor)) static void arm_from_environment(void) {
    const char *root = getenv("SWEEP_FAULT_ROOT"), *shift = getenv("SWEEP_FAULT_SHIFT_S");
    if (!root)
        return;
    int children = number("SWEEP_FAULT_CHILDREN", 0);
    faults_arm(root, number("SWEEP_FAULT_KIND", COUNT), number("SWEEP_FAULT_AT", 0), number("SWEEP_FAULT_ERROR", EIO),
               number("SWEEP_FAULT_LASTING", 0), shift ? atof(shift) : 0, children, getenv("SWEEP_FAULT_TRACE"));
    if (!children)
        unsetenv("SWEEP_FAULT_ROOT"); /* what this process starts is left alone */
}

static int is_armed(void) {
    if (!armed)
        return 0;
    pid_t me = getpid();
    if (armed != me && plan.children) { /* forked: counts from the beginning */
        armed = me;
        count = 0;
    }
    return armed == me;
}

/* --- Counting ------------------------------------------------------------------------------------------------- */

static int there(const char *path) { return syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0; }

/* The path that a descriptor is open on, or "". */
static void path_of(int fd, char *path) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
}

/* The absolute form of a path relative to a folder; ".." is left as it is. */
static void absolute(int folder, const char *path, char *whole) {
    char before[PATH_MAX] = "";
    if (path[0] != '/') {
        if (folder != AT_FDCWD)
            path_of(folder, before);
        else if (syscall(SYS_getcwd, before, sizeof before) < 0)
            before[0] = 0;
    }
    if (snprintf(whole, PATH_MAX, "%s%s%s", before, before[0] ? "/" : "", path) >= PATH_MAX)
        whole[0] = 0;
}

static int below_root(const char *path) {
    size_t length = strlen(plan.root);
    return strncmp(path, plan.root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

/* A disk without room still gives some back. */
static int fails_with(const char *operation, int error) {
    int frees = !strcmp(operation, "unlink") || !strcmp(operation, "rmdir") || !strcmp(operation, "ftruncate");
    return !(frees && (error == ENOSPC || error == EDQUOT));
}

/* Count one operation. Returns 0: let it happen; FAIL: fail with plan.error; TORN: write half, then die. */
static int strike(const char *operation, const char *path) {
    if (!below_root(path))
        return 0;
    int writes = !strcmp(operation, "write");
    long n = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (plan.trace >= 0) {
        char line[PATH_MAX + 40];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", n, operation, path);
        syscall(SYS_write, plan.trace, line, length);
    }
    switch (plan.kind) {
    case KILL:
        if (n == plan.at)
            die();
        return 0;
    case TORN:
        return writes && n >= plan.at ? TORN : 0;
    case FAIL:
        if (n < plan.at || (n > plan.at && !plan.lasting) || !fails_with(operation, plan.error) || there(plan.cured))
            return 0;
        errno = plan.error;
        return FAIL;
    case CLOCK:
        if (n == plan.at)
            shift_s += plan.shift_s;
        return 0;
    default:
        return 0;
    }
}

static int strike_fd(const char *operation, int fd) {
    char path[PATH_MAX];
    if (!is_armed())
        return 0;
    int saved = errno;
    path_of(fd, path);
    int struck = strike(operation, path);
    if (!struck)
        errno = saved;
    return struck;
}

static int strike_path(const char *operation, int folder, const char *path) {
    char whole[PATH_MAX];
    if (!is_armed() || !path)
        return 0;
    int saved = errno;
    absolute(folder, path, whole);
    /* Removing what is not there, or making a folder that is, changes nothing. */
    struct stat info;
    int exists = syscall(SYS_newfstatat, AT_FDCWD, whole, &info, AT_SYMLINK_NOFOLLOW) == 0;
    int removes = !strcmp(operation, "unlink") || !strcmp(operation, "rmdir");
    int idle = (removes && !exists) || (!strcmp(operation, "mkdir") && exists);
    int struck = idle ? 0 : strike(operation, whole);
    if (!struck)
        errno = saved;
    return struck;
}

/* --- What stands in front of the C library -------------------------------------------------------------------- */

static size_t bytes_of(const struct iovec *parts, int n) {
    size_t total = 0;
    for (int i = 0; i < n; i++)
        total += parts[i].iov_len;
    return total;
}

/* The first half of what was to be written; a disk that fills up takes a part, too. */
static void write_half(int fd, const struct iovec *parts, int n, off_t at) {
    size_t left = bytes_of(parts, n) / 2;
    for (int i = 0; i < n && left; i++) {
        size_t size = parts[i].iov_len < left ? parts[i].iov_len : left;
        if (at < 0)
            syscall(SYS_write, fd, parts[i].iov_base, size);
        else
            syscall(SYS_pwrite64, fd, parts[i].iov_base, size, at);
        at += at < 0 ? 0 : (off_t)size;
        left -= size;
    }
}

/* Whether a write is to fail; `at` is -1 for the file's own position. */
static int write_fails(int fd, const struct iovec *parts, int n, off_t at) {
    int struck = strike_fd("write", fd);
    if (!struck)
        return 0;
    write_half(fd, parts, n, at);
    if (struck == TORN)
        die();
    errno = plan.error;
    return 1;
}

ssize_t write(int fd, const void *data, size_t size) {
    struct iovec part = {(void *)data, size};
    return write_fails(fd, &part, 1, -1) ? -1 : syscall(SYS_write, fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    return write_fails(fd, parts, n, -1) ? -1 : syscall(SYS_writev, fd, parts, n);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    struct iovec part = {(void *)data, size};
    return write_fails(fd, &part, 1, at) ? -1 : syscall(SYS_pwrite64, fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return pwrite(fd, data, size, at); }

int fsync(int fd) { return strike_fd("fsync", fd) ? -1 : syscall(SYS_fsync, fd); }

int fdatasync(int fd) { return strike_fd("fsync", fd) ? -1 : syscall(SYS_fdatasync, fd); }

int ftruncate(int fd, off_t size) { return strike_fd("ftruncate", fd) ? -1 : syscall(SYS_ftruncate, fd, size); }

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    return strike_path("rename", to, new) ? -1 : syscall(SYS_renameat2, from, old, to, new, flags);
}

int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }

int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    return strike_path("link", to, new) ? -1 : syscall(SYS_linkat, from, old, to, new, flags);
}

int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int folder, const char *path, int flags) {
    const char *operation = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    return strike_path(operation, folder, path) ? -1 : syscall(SYS_unlinkat, folder, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    return strike_path("mkdir", folder, path) ? -1 : syscall(SYS_mkdirat, folder, path, mode);
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

static int open_in(int folder, const char *path, int flags, mode_t mode) {
    if ((flags & (O_CREAT | O_TRUNC)) && strike_path("open", folder, path))
        return -1;
    return syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(flags)                                                \
    mode_t mode = 0;                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                         \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode = va_arg(rest, int);                                  \
        va_end(rest);                                              \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_in(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_in(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return open_in(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return open_in(folder, path, flags | O_LARGEFILE, mode);
}

int creat(const char *path, mode_t mode) { return open_in(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* --- A clock that jumps --------------------------------------------------------------------------------------- */

static double shift_now(void) {
    if (!is_armed())
        return 0;
    char text[40];
    int fd = syscall(SYS_openat, AT_FDCWD, plan.clock, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return shift_s;
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    text[length > 0 ? length : 0] = 0;
    return shift_s + atof(text);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int done = syscall(SYS_clock_gettime, clock, time);
    if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int saved = errno;
        time->tv_sec += (time_t)shift_now();
        errno = saved;
    }
    return done;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place)
        *place = now.tv_sec;
    return now.tv_sec;
}
