/* A disk as some mounts are: what lies below $DISK refuses what $REFUSES names. chmod: GCS FUSE, SMB, vfat; fsyncdir: CIFS
   and several FUSE; enolck, enosys: NFS and Lustre without locks; link: Google Drive; readonly. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int refuses(const char *what, const char *path) {
    const char *disk = getenv("DISK"), *names = getenv("REFUSES");
    return disk && names && path && !strcmp(names, what) && !strncmp(path, disk, strlen(disk));
}

static int fd_refuses(const char *what, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    return n > 0 && (path[n] = 0, refuses(what, path));
}

#define FAIL_IF(condition, code) if (condition) { errno = code; return -1; }
#define NEXT(name, ...) ((int (*)(__VA_ARGS__)) dlsym(RTLD_NEXT, #name))

int chmod(const char *path, mode_t mode) {
    FAIL_IF(refuses("chmod", path), EPERM)
    return NEXT(chmod, const char *, mode_t)(path, mode);
}

int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    FAIL_IF(refuses("chmod", path), EPERM)
    return NEXT(fchmodat, int, const char *, mode_t, int)(folder, path, mode, flags);
}

int fsync(int fd) {
    struct stat found;
    FAIL_IF(fd_refuses("fsyncdir", fd) && !fstat(fd, &found) && S_ISDIR(found.st_mode), EINVAL)
    return NEXT(fsync, int)(fd);
}

int flock(int fd, int operation) {
    FAIL_IF(fd_refuses("enolck", fd), ENOLCK)
    FAIL_IF(fd_refuses("enosys", fd), ENOSYS)
    return NEXT(flock, int, int)(fd, operation);
}

int link(const char *path, const char *other) {
    FAIL_IF(refuses("link", other), EPERM)
    return NEXT(link, const char *, const char *)(path, other);
}

int symlink(const char *path, const char *other) {
    FAIL_IF(refuses("link", other), EPERM)
    return NEXT(symlink, const char *, const char *)(path, other);
}

int mkdir(const char *path, mode_t mode) {
    FAIL_IF(refuses("readonly", path), EROFS)
    return NEXT(mkdir, const char *, mode_t)(path, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    FAIL_IF(flags & (O_WRONLY | O_RDWR | O_CREAT) && refuses("readonly", path), EROFS)
    return NEXT(open64, const char *, int, mode_t)(path, flags, mode);
}
