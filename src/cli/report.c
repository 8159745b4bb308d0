/* sinklab report: experiments/report.py in a Python that has what it needs. */
#include "base/err.h"
#include "cli/args.h"
#include "cli/share.h"
#include "cli/verbs.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Beside the report in the share folder, where ./quickstart makes it; else the first one of PATH. */
static const char *find_python(char path[SL_SHARE_CHARS]) {
    return sl_share_find("report", ".venv/bin/python", path) == 0 && access(path, X_OK) == 0 ? path : "python3";
}

/* Whether the Python runs and has the packages, which it tells in some hundredths of a second without loading them. */
static int check_python(const char *python, const char *requirements) {
    static const char program[] = "import importlib.util, sys\n"
                                  "sys.exit(sys.version_info < (3, 11) or not all(map(importlib.util.find_spec, "
                                  "sys.argv[1:])))";
    const char *const argv[] = {python, "-c", program, "matplotlib", "numpy", NULL};
    pid_t child;
    int status = 0, rc = posix_spawnp(&child, python, NULL, NULL, (char *const *)(uintptr_t)argv, environ);
    if (rc)
        return sl_fail("report: cannot start %s: %s; it wants Python 3.11 with matplotlib", python, strerror(rc));
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return sl_fail_errno("cannot wait for", python);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return sl_fail("report: %s has no matplotlib, or is older than 3.11; install that (apt-get install "
                   "python3-matplotlib), activate an environment with the packages of %s, or run ./quickstart in the "
                   "source tree", python, requirements);
}

static void add(const char **argv, int *argc, const char *flag, const char *value) {
    if (!value)
        return;
    argv[(*argc)++] = flag;
    argv[(*argc)++] = value;
}

int sl_verb_report(int argc, char **argv) {
    const char *out = NULL, *png = NULL, *title = NULL;
    const sl_flag flags[] = {
        SL_FLAG_STR("out", "FILE", &out, "page to write; default report.html"),
        SL_FLAG_STR("png", "FILE", &png,
                    "also one picture: M2 over the steps and the channel profile; of probed models attention to token "
                    "0 and the largest activations"),
        SL_FLAG_STR("title", "TEXT", &title, "default: the names of the runs"), SL_FLAG_END};
    const sl_verb_spec spec = {
        .verb = "report",
        .operands = "RUN ...",
        .about = "Writes one HTML page about one or several runs, finished or not, or about what `sinklab probe --json "
                 "--profile` printed, and prints their table. Python with matplotlib makes it: that of .venv in the "
                 "source tree, else python3.",
        .flags = flags,
        .min_positionals = 1,
        .max_positionals = -1,
        .examples = "sinklab report runs/baseline runs/gated_norm --out report.html\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    char script[SL_SHARE_CHARS], requirements[SL_SHARE_CHARS], path[SL_SHARE_CHARS];
    const char *line[SL_ARGS_MAX + 16];
    int n = 0;
    if (sl_share_find("report", "experiments/report.py", script) ||
        sl_share_find("report", "experiments/requirements.txt", requirements))
        return -1;
    const char *python = find_python(path);
    if (check_python(python, requirements))
        return -1;
    add(line, &n, python, "-B"); /* the share folder is not this user's to write into */
    line[n++] = script;
    add(line, &n, "--out", out);
    add(line, &n, "--png", png);
    add(line, &n, "--title", title);
    line[n++] = "--";
    memcpy(line + n, args.positional, (size_t)args.positionals * sizeof *line);
    line[n + args.positionals] = NULL;
    execvp(python, (char *const *)(uintptr_t)line);
    return sl_fail_errno("cannot start", python);
}
