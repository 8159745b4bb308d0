/* sinklab new-study: a study to begin with. */
#include "base/err.h"
#include "base/text.h"
#include "cli/args.h"
#include "cli/share.h"
#include "cli/verbs.h"
#include "io/file.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STUDIES "experiments/studies"
static const char *const files[] = {"study.yaml", "README.md"};
enum { FILES = sizeof files / sizeof *files, NAME_CHARS = 32, PATH_CHARS = SL_SHARE_CHARS + NAME_CHARS };

/* Its folder names the study, in folders of results and on pages. */
static int check_name(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char quoted[SL_QUOTE_CHARS];
    bool good = isalnum((unsigned char)*name) && strcmp(name, "overview") != 0;
    for (const char *s = name; *s; s++)
        good = good && (isalnum((unsigned char)*s) || *s == '_' || *s == '-');
    return good ? 0
                : sl_fail_usage("new-study: %s is no name of a study, which has letters, digits, _ and - and is not "
                                "overview", sl_quote(quoted, name));
}

/* A name alone is one of the folder of studies. */
static int find_place(const char *name, char folder[SL_SHARE_CHARS]) {
    struct stat st;
    bool alone = !strchr(name, '/');
    if (alone && (stat(STUDIES, &st) || !S_ISDIR(st.st_mode)))
        return sl_fail("new-study: there is no folder " STUDIES " here; go where it is, or give a path, like ./%s",
                       name);
    if (snprintf(folder, SL_SHARE_CHARS, "%s%s", alone ? STUDIES "/" : "", name) >= SL_SHARE_CHARS)
        return sl_fail_usage("new-study: the path is too long");
    return 0;
}

static int copy(const char *name, const char *folder) {
    char from[SL_SHARE_CHARS], to[PATH_CHARS], source[64];
    sl_map m;
    snprintf(source, sizeof source, "experiments/templates/study/%s", name);
    snprintf(to, sizeof to, "%s/%s", folder, name);
    if (sl_share_find("new-study", source, from) || sl_map_open(&m, from))
        return -1;
    int rc = sl_write_file(to, m.p, m.n);
    sl_map_close(&m);
    return rc;
}

/* All files, or nothing: a folder that was there before is left as it is. */
static int make_study(const char *folder) {
    char path[PATH_CHARS];
    int rc = 0;
    if (mkdir(folder, 0777))
        return errno == EEXIST ? sl_fail("new-study: %s is there already; give another name", folder)
                               : sl_fail_errno("cannot make folder", folder);
    for (int i = 0; i < FILES && rc == 0; i++)
        rc = copy(files[i], folder);
    for (int i = 0; i < FILES && rc; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    if (rc)
        rmdir(folder);
    return rc;
}

int sl_verb_new_study(int argc, char **argv) {
    const sl_verb_spec spec = {
        .verb = "new-study",
        .operands = "NAME",
        .about = "Makes the folder " STUDIES "/NAME with a study.yaml and a README.md to begin with: a small study "
                 "that runs as it is, in seconds. NAME with a slash in it is the folder itself, anywhere.",
        .min_positionals = 1,
        .max_positionals = 1,
        .examples = "sinklab new-study my_norm\n./experiments/run my_norm\nsinklab new-study ./elsewhere/my_norm\n"};
    sl_args args;
    char folder[SL_SHARE_CHARS];
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    const char *name = args.positional[0];
    if (check_name(name) || find_place(name, folder) || make_study(folder))
        return -1;
    printf("%s: study.yaml and README.md; ./experiments/run %s runs it\n", folder, name);
    return 0;
}
