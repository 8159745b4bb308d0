/* sinklab VERB ...: finds the verb, prints the error that it leaves, chooses the exit code. */
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/verbs.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static int print_help(void) {
    printf("sinklab %s: attention sinks and residual sinks of small transformers, on CPUs\n\n"
           "Usage: sinklab VERB [arguments]\n\nVerbs:\n",
           sl_version());
    for (const sl_verb *v = sl_verbs; v->name; v++)
        printf("  %-10s %s\n", v->name, v->help);
    puts("\n`sinklab VERB --help` explains a verb. Exit codes: 0 ok, 1 failed, 2 wrong usage.");
    return 0;
}

static const sl_verb *find(const char *name) {
    for (const sl_verb *v = sl_verbs; v->name; v++)
        if (strcmp(name, v->name) == 0)
            return v;
    char quoted[SL_QUOTE_CHARS];
    const char *near = sl_nearest(name, sl_verbs, sizeof *sl_verbs);
    sl_quote(quoted, name);
    if (near)
        sl_fail_usage("unknown verb %s; did you mean %s?", quoted, near);
    else
        sl_fail_usage("unknown verb %s; `sinklab help` lists the verbs", quoted);
    return NULL;
}

static bool is(const char *arg, const char *a, const char *b) {
    return strcmp(arg, a) == 0 || strcmp(arg, b) == 0;
}

/* Files that are opened must not become standard streams, or log lines would land in them. */
static void open_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            _exit(SL_EXIT_FAILED);
}

/* Room on the stack of this thread and of those to come, where the system lets us have it. */
static int ensure_stack(void) {
    enum { NEEDED = 1 << 20 };
    struct rlimit r;
    pthread_attr_t a;
    size_t size = 0;
    if (getrlimit(RLIMIT_STACK, &r) == 0 && r.rlim_cur < NEEDED) {
        r.rlim_cur = r.rlim_max < NEEDED ? r.rlim_max : NEEDED;
        if (r.rlim_max < NEEDED || setrlimit(RLIMIT_STACK, &r))
            return sl_fail("the stack may have only %llu KiB (`ulimit -s`); at least %d are needed",
                           (unsigned long long)r.rlim_cur / 1024, NEEDED / 1024);
    }
    if (pthread_getattr_default_np(&a) == 0) {
        if (pthread_attr_getstacksize(&a, &size) == 0 && size < NEEDED && pthread_attr_setstacksize(&a, NEEDED) == 0)
            pthread_setattr_default_np(&a);
        pthread_attr_destroy(&a);
    }
    return 0;
}

/* A file that is mapped (a token bin, a checkpoint) was cut short by somebody else. */
static void on_bus_error(int s) {
    static const char message[] =
        "sinklab: error: a file that is being read was truncated by another program; restore it and start again\n";
    (void)s;
    ssize_t written = write(STDERR_FILENO, message, sizeof message - 1);
    (void)written;
    _exit(SL_EXIT_FAILED);
}

static int run(int argc, char **argv) {
    bool help = argc < 2 || is(argv[1], "help", "help");
    if (argc < 2 || is(argv[1], "--help", "-h") || (help && argc == 2))
        return print_help();
    if (is(argv[1], "--version", "version")) {
        printf("sinklab %s\n", sl_version());
        return 0;
    }
    const sl_verb *v = find(argv[help ? 2 : 1]);
    if (!v)
        return -1;
    char flag[] = "--help", *help_args[] = {argv[help ? 2 : 1], flag, NULL};
    return help ? v->run(2, help_args) : v->run(argc - 1, argv + 1);
}

int main(int argc, char **argv) {
    open_streams();
    signal(SIGBUS, on_bus_error);
    signal(SIGXFSZ, SIG_IGN); /* so that a write beyond `ulimit -f` fails like one to a full disk */
    int rc = ensure_stack() ? -1 : run(argc, argv);
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = sl_fail_errno("cannot write", "the standard output");
    if (rc < 0) {
        fflush(stdout);
        sl_log_break();
        fprintf(stderr, "sinklab: error: %s\n", sl_error());
        rc = sl_error_exit_code();
    }
    return rc;
}
