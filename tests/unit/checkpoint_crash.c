/* What checkpoints promise about crashes: kill -9 at random moments, the n-th system call failing
 * for every n, and the power cut after the n-th call for every n. */
#include "checkpoint_fixture.h"

#include "io/file.h"
#include "suite.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static char run[128];
static sl_sys_calls real;

static void start_run(void) {
    static int number;
    snprintf(run, sizeof run, "%s/run%d", scratch, number++);
    real = sl_sys;
}

static void restore_calls(void) { sl_sys = real; }

/* Number in the newest checkpoint; -1 with a message if there is none. */
static int64_t newest(int64_t *step) {
    char dir[4096];
    return sl_checkpoint_resolve(run, dir) < 0 ? -1 : fixture_load(dir, step);
}

/* Each folder is refused or has whole contents; number of folders whose name ends in `suffix`. */
static int check_folders(const char *suffix) {
    char base[256], dir[600];
    int found = 0;
    snprintf(base, sizeof base, "%s/checkpoints", run);
    DIR *d = opendir(base);
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        size_t n = strlen(e->d_name), k = strlen(suffix);
        found += n > k && !strcmp(e->d_name + n - k, suffix);
        snprintf(dir, sizeof dir, "%s/%s", base, e->d_name);
        fixture_load(dir, NULL);
    }
    closedir(d);
    return found;
}

/* ---------------------------------------------------------------- kill -9 */

enum { KILLS = 80 };

/* Saves step after step, beginning with the last one again; numbers equal steps. */
static void save_for_ever(_Atomic int64_t *done) {
    for (int64_t step = *done;; step++) {
        if (fixture_save(run, step, step, 2) < 0)
            _exit(1);
        *done = step;
    }
}

static double seconds_of_a_save(void) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    ck_assert_int_eq(fixture_save(run, 0, 0, 2), 0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

START_TEST(kill_at_any_moment) {
    start_run();
    double longest = fmin(0.05, 4 * seconds_of_a_save() + 0.004); /* a few saves and the fork */
    _Atomic int64_t *done =
        mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert(done != MAP_FAILED);
    srand(1);
    for (int i = 0; i < KILLS; i++) {
        pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0)
            save_for_ever(done);
        struct timespec t = {0, (long)(longest * 1e9 * rand() / RAND_MAX)};
        nanosleep(&t, NULL);
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        ck_assert_msg(WIFSIGNALED(status), "the child could not save");
        int64_t step = -1, last = *done;
        check_folders("");
        int64_t number = newest(&step);
        ck_assert_msg(number == step, "%s", sl_error());
        ck_assert_msg(step >= last, "step %d was saved, %d is the newest", (int)last, (int)step);
        if (step > last)
            *done = step; /* killed between the rename and the note */
    }
    ck_assert_int_gt(*done, 5);
    ck_assert_int_eq(fixture_save(run, *done, *done, 2), 0);
    ck_assert_int_eq(check_folders(".tmp") + check_folders(".old"), 0);
    munmap((void *)(uintptr_t)done, sizeof *done);
}
END_TEST

/* ---------------------------------------------------------------- failing calls */

static int countdown;   /* the call that makes it 0 fails */
static int failure;     /* errno */
static bool persistent; /* and all later ones */
static bool triggered;

static bool fails(void) {
    countdown--;
    if (countdown > 0 || (countdown < 0 && !persistent))
        return false;
    triggered = true;
    errno = failure;
    return true;
}

static int bad_open(const char *path, int flags, mode_t mode) {
    return fails() ? -1 : real.open(path, flags, mode);
}
static ssize_t bad_write(int fd, const void *p, size_t n) {
    if (!fails())
        return real.write(fd, p, n / 2 + 1); /* a short write is not an error */
    int e = errno;
    ssize_t half = real.write(fd, p, n / 2);
    errno = e;
    return half < 0 ? half : -1;
}
static int bad_fsync(int fd) { return fails() ? -1 : real.fsync(fd); }
static int bad_close(int fd) {
    int rc = real.close(fd); /* Linux closes even when it reports an error */
    return fails() ? -1 : rc;
}
static int bad_rename(const char *from, const char *to) {
    return fails() ? -1 : real.rename(from, to);
}
static int bad_mkdir(const char *path, mode_t mode) {
    return fails() ? -1 : real.mkdir(path, mode);
}

static const struct {
    int error;
    bool persistent, replace;
} plans[] = {{EIO, false, false},   {EIO, true, false},    {ENOSPC, false, false},
             {ENOSPC, true, false}, {ENOSPC, false, true}, {ENOSPC, true, true}};

/* Step 1 is there; step 2 (or step 1 anew) is saved with the n-th call failing, for all n. */
static bool fail_at(int n, int plan) {
    bool replace = plans[plan].replace;
    char text[64];
    start_run();
    ck_assert_int_eq(fixture_save(run, 1, 1, 1), 0);
    countdown = n;
    failure = plans[plan].error;
    persistent = plans[plan].persistent;
    triggered = false;
    sl_sys = (sl_sys_calls){bad_open,   bad_write, bad_fsync,   bad_close,
                            bad_rename, bad_mkdir, real.unlinkat, real.rmdir};
    int rc = fixture_save(run, replace ? 1 : 2, 2, 1);
    restore_calls();
    if (rc < 0) {
        snprintf(text, sizeof text, "checkpoint of step %d not saved: cannot ", replace ? 1 : 2);
        ck_error(text);
        ck_error(strerror(failure));
    }
    char why[2048];
    snprintf(why, sizeof why, "%s", rc < 0 ? sl_error() : "saved");
    int64_t number = newest(NULL);
    ck_assert_msg(rc < 0 ? number == 1 || number == 2 : number == 2, "call %d (%s): number %d", n,
                  why, (int)number);
    check_folders("");
    if (rc < 0)
        ck_assert_msg(check_folders(".tmp") == 0, "call %d (%s): unfinished folder left", n, why);
    ck_assert_int_eq(fixture_save(run, 3, 3, 1),
                     0); /* and it goes on when the disk has room again */
    ck_assert_int_eq(newest(NULL), 3);
    ck_assert_int_eq(check_folders(".tmp"), 0);
    return triggered;
}

START_TEST(every_failing_call) {
    int n = 1;
    while (fail_at(n, _i))
        n++;
    ck_assert_int_gt(n, 30); /* 6 files of create, writes, fsync, close; folders; renames */
}
END_TEST

/* ---------------------------------------------------------------- power cut */

enum { MOST = 64 };
static struct {
    dev_t dev;
    ino_t ino;
} dirty[MOST]; /* files written and not yet flushed */
static int dirty_count;
static struct {
    char from[512], to[512];
} renamed[MOST]; /* renames whose folder is not yet flushed */
static int renamed_count;
static bool off;

static bool power_fails(void) {
    off = off || --countdown == 0;
    errno = EIO;
    return off;
}

static int dirty_index(int fd) {
    struct stat st;
    if (fstat(fd, &st) == 0)
        for (int i = 0; i < dirty_count; i++)
            if (dirty[i].dev == st.st_dev && dirty[i].ino == st.st_ino)
                return i;
    return -1;
}

static int cut_open(const char *path, int flags, mode_t mode) {
    if (power_fails())
        return -1;
    int fd = real.open(path, flags, mode);
    struct stat st;
    if (fd >= 0 && (flags & O_WRONLY) && dirty_index(fd) < 0 && fstat(fd, &st) == 0) {
        ck_assert_int_lt(dirty_count, MOST);
        dirty[dirty_count].dev = st.st_dev;
        dirty[dirty_count++].ino = st.st_ino;
    }
    return fd;
}
static ssize_t cut_write(int fd, const void *p, size_t n) {
    return power_fails() ? -1 : real.write(fd, p, n);
}
static int cut_fsync(int fd) {
    char link[64], path[512];
    if (power_fails())
        return -1;
    int i = dirty_index(fd);
    if (i >= 0)
        dirty[i] = dirty[--dirty_count];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    for (int k = renamed_count - 1; k >= 0; k--)
        if (n > 0 && !strncmp(renamed[k].to, path, (size_t)n) &&
            !strchr(renamed[k].to + n + 1, '/'))
            memmove(&renamed[k], &renamed[k + 1],
                    (size_t)(--renamed_count - k) * sizeof renamed[0]);
    return real.fsync(fd);
}
static int cut_close(int fd) {
    int rc = real.close(fd);
    return power_fails() ? -1 : rc;
}
static int cut_rename(const char *from, const char *to) {
    if (power_fails() || real.rename(from, to) < 0)
        return -1;
    ck_assert_int_lt(renamed_count, MOST);
    snprintf(renamed[renamed_count].from, sizeof renamed[0].from, "%s", from);
    snprintf(renamed[renamed_count++].to, sizeof renamed[0].to, "%s", to);
    return 0;
}
static int cut_mkdir(const char *path, mode_t mode) {
    return power_fails() ? -1 : real.mkdir(path, mode);
}
static int cut_unlink(int folder, const char *name, int flags) {
    return power_fails() ? -1 : real.unlinkat(folder, name, flags);
}
static int cut_rmdir(const char *path) { return power_fails() ? -1 : real.rmdir(path); }

static int lose_half(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)flag, (void)ftw;
    for (int i = 0; i < dirty_count; i++)
        if (dirty[i].dev == st->st_dev && dirty[i].ino == st->st_ino)
            ck_assert_int_eq(truncate(path, st->st_size / 2), 0);
    return 0;
}

/* The disk as it may be after the cut: unflushed data is half lost; unflushed renames are undone,
 * while removals of files were already on the disk. */
static void lose_unflushed(void) {
    nftw(run, lose_half, 16, FTW_PHYS);
    while (renamed_count > 0) {
        renamed_count--;
        rename(renamed[renamed_count].to, renamed[renamed_count].from);
    }
}

static bool cut_at(int n, bool replace) {
    start_run();
    ck_assert_int_eq(fixture_save(run, 1, 1, 1), 0);
    countdown = n;
    off = false;
    dirty_count = renamed_count = 0;
    sl_sys = (sl_sys_calls){cut_open,   cut_write, cut_fsync,  cut_close,
                            cut_rename, cut_mkdir, cut_unlink, cut_rmdir};
    int rc = fixture_save(run, replace ? 1 : 2, 2, 1);
    restore_calls();
    lose_unflushed();
    int64_t number = newest(NULL);
    ck_assert_msg(number == 2 || (rc < 0 && number == 1), "cut at call %d: number %d: %s", n,
                  (int)number, sl_error());
    check_folders("");
    ck_assert_int_eq(fixture_save(run, 3, 3, 1), 0);
    ck_assert_int_eq(newest(NULL), 3);
    ck_assert_int_eq(check_folders(".tmp"), 0);
    return off;
}

START_TEST(power_cut_at_any_call) {
    int n = 1;
    while (cut_at(n, _i))
        n++;
    ck_assert_int_gt(n, 30);
}
END_TEST

int main(void) {
    Suite *s = suite_create("checkpoint_crash");
    TCase *t = tcase_create("crash");
    tcase_set_timeout(t, 60);
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_test(t, kill_at_any_moment);
    tcase_add_loop_test(t, every_failing_call, 0, sizeof plans / sizeof plans[0]);
    tcase_add_loop_test(t, power_cut_at_any_call, 0, 2);
    suite_add_tcase(s, t);
    return run_suite(s);
}
