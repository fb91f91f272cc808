/* A file system that has turned read-only under a process, as Linux does it to a disk with errors.
 *
 *   cc -shared -fPIC -O1 -o read_only.so read_only.c -ldl
 *   READ_ONLY=FILE LD_PRELOAD=./read_only.so COMMAND
 *
 * While FILE names a directory, whatever would change something in it, or write to a file there that is open already,
 * fails with EROFS. The kernel refuses `mount -o remount,ro` as long as a file is open for writing, and lets nothing
 * write again on a disk that it has itself turned read-only; so neither can be played with a mount.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The directory, or "". By system calls, for the functions are those below. */
static const char *directory(char *found)
{
    const char *flag = getenv("READ_ONLY");
    int file = flag ? syscall(SYS_openat, AT_FDCWD, flag, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t length = file < 0 ? 0 : read(file, found, 4095);
    if (file >= 0)
        close(file);
    found[length > 0 ? length : 0] = 0;
    return found;
}

static int within(const char *path)
{
    char found[4096];
    size_t length = strlen(directory(found));
    return length && !strncmp(path, found, length) && (path[length] == '/' || !path[length]);
}

static int frozen_file(int file)
{
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    return within(path);
}

static int frozen(int at, const char *path)
{
    char base[4096], whole[8192], link[32];
    if (*path == '/')
        return within(path);
    snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
    ssize_t length = readlink(link, base, sizeof base - 1);
    base[length > 0 ? length : 0] = 0;
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return within(whole);
}

static int writes(int at, const char *path, int flags)
{
    struct stat about;
    int changes = (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
    return (changes || (flags & O_CREAT && fstatat(at, path, &about, 0))) && frozen(at, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define REFUSE return (errno = EROFS, -1)
#define MODE(flags, last) \
    va_list more; va_start(more, last); int mode = (flags) & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0; va_end(more)
#define OPEN(name) int name(const char *path, int flags, ...) \
    { MODE(flags, flags); if (writes(AT_FDCWD, path, flags)) REFUSE; return REAL(name)(path, flags, mode); }
#define OPENAT(name) int name(int at, const char *path, int flags, ...) \
    { MODE(flags, flags); if (writes(at, path, flags)) REFUSE; return REAL(name)(at, path, flags, mode); }
#define OF_FILE(kind, name, declared, given) kind name declared { if (frozen_file(fd)) REFUSE; return REAL(name) given; }
#define OF_PATH(name, declared, given) int name declared { if (frozen(AT_FDCWD, path)) REFUSE; return REAL(name) given; }
#define OF_ENTRY(name, declared, given) int name declared { if (frozen(at, path)) REFUSE; return REAL(name) given; }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
OF_FILE(ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
OF_FILE(ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count))
OF_FILE(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t place), (fd, from, size, place))
OF_FILE(ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t place), (fd, from, size, place))
OF_FILE(int, ftruncate, (int fd, off_t size), (fd, size))
OF_FILE(int, ftruncate64, (int fd, off64_t size), (fd, size))
OF_FILE(int, fsync, (int fd), (fd))
OF_FILE(int, fdatasync, (int fd), (fd))
OF_FILE(int, fchmod, (int fd, mode_t mode), (fd, mode))
OF_PATH(unlink, (const char *path), (path))
OF_PATH(rmdir, (const char *path), (path))
OF_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
OF_PATH(chmod, (const char *path, mode_t mode), (path, mode))
OF_PATH(rename, (const char *path, const char *to), (path, to))
OF_PATH(link, (const char *path, const char *to), (path, to))
OF_PATH(symlink, (const char *to, const char *path), (to, path))
OF_ENTRY(unlinkat, (int at, const char *path, int flags), (at, path, flags))
OF_ENTRY(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
OF_ENTRY(renameat, (int at, const char *path, int to_at, const char *to), (at, path, to_at, to))
