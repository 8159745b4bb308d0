#include "base/cpu.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef sl_cpu_mask cpu_mask;

static bool mask_has(const cpu_mask m, int i) { return m[i / 8] >> (i % 8) & 1; }
static void mask_add(cpu_mask m, int i) { m[i / 8] = (unsigned char)(m[i / 8] | 1u << (i % 8)); }

static int mask_count(const cpu_mask m) {
    int n = 0;
    for (int i = 0; i < SL_MAX_CPUS / 8; i++)
        n += __builtin_popcount(m[i]);
    return n;
}

static int mask_first(const cpu_mask m) {
    for (int i = 0; i < SL_MAX_CPUS; i++)
        if (mask_has(m, i))
            return i;
    return -1;
}

/* ---------------------------------------------------------------- small files */

/* The first size-1 bytes of root + formatted path, without the last newline; false if it can't be
 * read. */
static bool slurp(char *out, size_t size, const char *root, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static bool slurp(char *out, size_t size, const char *root, const char *fmt, ...) {
    char path[1024];
    int n = snprintf(path, sizeof path, "%s", root);
    va_list ap;
    va_start(ap, fmt);
    if (n >= 0 && (size_t)n < sizeof path)
        n += vsnprintf(path + n, sizeof path - (size_t)n, fmt, ap);
    va_end(ap);
    FILE *f = n >= 0 && (size_t)n < sizeof path ? fopen(path, "r") : NULL;
    *out = 0;
    if (!f)
        return false;
    size_t got = fread(out, 1, size - 1, f);
    fclose(f);
    out[got] = 0;
    if (got && out[got - 1] == '\n')
        out[got - 1] = 0;
    return got > 0;
}

/* "0-3,8,10-11" as the kernel writes masks of CPUs and nodes; what is beyond our limit is left out.
 */
static void parse_list(const char *s, cpu_mask m) {
    memset(m, 0, sizeof(cpu_mask));
    while (*s) {
        char *end;
        long a = strtol(s, &end, 10), b = a;
        if (end == s || a < 0)
            return;
        if (*end == '-')
            b = strtol(end + 1, &end, 10);
        for (long i = a; i <= b && i < SL_MAX_CPUS; i++)
            mask_add(m, (int)i);
        s = *end == ',' ? end + 1 : "";
    }
}

static bool read_list(cpu_mask m, const char *root, const char *dir, int id, const char *name) {
    char text[8192];
    bool ok = slurp(text, sizeof text, root, "%s%d/%s", dir, id, name);
    parse_list(ok ? text : "", m);
    return ok;
}

/* ---------------------------------------------------------------- cores, caches, nodes */

static const char cpu_dir[] = "/sys/devices/system/cpu/cpu",
                  node_dir[] = "/sys/devices/system/node/node";

static cpu_mask kept;
static bool is_kept;

/* The mask of a process whose threads OpenMP binds is one place; all places are what it had. */
static bool openmp_places(cpu_mask m) {
    if (omp_get_proc_bind() == omp_proc_bind_false)
        return false;
    for (int i = 0; i < omp_get_num_places(); i++) {
        int n = omp_get_place_num_procs(i), *id = calloc((size_t)n + 1, sizeof *id);
        if (id)
            omp_get_place_proc_ids(i, id);
        for (int j = 0; id && j < n; j++)
            if (id[j] >= 0 && id[j] < SL_MAX_CPUS)
                mask_add(m, id[j]);
        free(id);
    }
    return mask_first(m) >= 0;
}

void sl_cpu_allowed(sl_cpu_mask m) {
    if (is_kept) {
        memcpy(m, kept, sizeof kept);
        return;
    }
    memset(m, 0, sizeof(cpu_mask));
    if (!openmp_places(m) && sched_getaffinity(0, sizeof(cpu_mask), (cpu_set_t *)m) < 0)
        mask_add(m, 0);
}

int sl_cpu_bind(const sl_cpu_mask mask) {
    return sched_setaffinity(0, sizeof(cpu_mask), (const cpu_set_t *)mask);
}

void sl_cpu_keep(void) {
    sl_cpu_allowed(kept);
    is_kept = true;
}

bool sl_cpu_release(sl_cpu_mask mask) {
    if (is_kept)
        memcpy(mask, kept, sizeof kept);
    bool had = is_kept;
    is_kept = false;
    return had;
}

static int core_of(const char *root, int cpu) {
    cpu_mask siblings;
    if (!read_list(siblings, root, cpu_dir, cpu, "topology/core_cpus_list"))
        read_list(siblings, root, cpu_dir, cpu, "topology/thread_siblings_list");
    int first = mask_first(siblings);
    return first < 0 ? cpu : first;
}

static int socket_of(const char *root, int cpu) {
    char text[32];
    bool known = slurp(text, sizeof text, root, "%s%d/topology/physical_package_id", cpu_dir, cpu);
    int socket = known ? atoi(text) : 0;
    return socket < 0 || socket >= SL_MAX_CPUS ? 0 : socket;
}

static void read_cores(sl_cpu *c, const char *root, const cpu_mask allowed) {
    cpu_mask cores = {0}, sockets = {0};
    for (int i = 0; i < SL_MAX_CPUS; i++) {
        if (!mask_has(allowed, i))
            continue;
        mask_add(cores, core_of(root, i));
        mask_add(sockets, socket_of(root, i));
    }
    c->cores = mask_count(cores);
    c->sockets = mask_count(sockets);
}

static int64_t parse_size(const char *s) {
    char *end;
    long long n = strtoll(s, &end, 10);
    return *end == 'K' ? n << 10 : *end == 'M' ? n << 20 : *end == 'G' ? n << 30 : n;
}

static void read_caches(sl_cpu *c, const char *root, const cpu_mask allowed) {
    char text[64];
    cpu_mask shared, l3 = {0};
    for (int cpu = 0; cpu < SL_MAX_CPUS; cpu++) {
        if (!mask_has(allowed, cpu))
            continue;
        for (int i = 0; slurp(text, sizeof text, root, "%s%d/cache/index%d/level", cpu_dir, cpu, i);
             i++) {
            int level = atoi(text);
            if (!slurp(text, sizeof text, root, "%s%d/cache/index%d/type", cpu_dir, cpu, i) ||
                !strcmp(text, "Instruction") || level < 1 || level > 3)
                continue;
            slurp(text, sizeof text, root, "%s%d/cache/index%d/size", cpu_dir, cpu, i);
            int64_t *size = level == 1 ? &c->l1d : level == 2 ? &c->l2 : &c->l3;
            if (*size == 0)
                *size = parse_size(text);
            if (level == 3) {
                snprintf(text, sizeof text, "cache/index%d/shared_cpu_list", i);
                read_list(shared, root, cpu_dir, cpu, text);
                int first = mask_first(shared);
                mask_add(l3, first < 0 ? cpu : first);
            }
        }
    }
    c->l3_total = c->l3 * mask_count(l3);
}

/* Value in bytes of a line "...key:  123 kB" of a meminfo file; 0 if it isn't there. */
static int64_t meminfo(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? strtoll(at + strlen(key), NULL, 10) * 1024 : 0;
}

static void read_nodes(sl_cpu *c, const char *root, const cpu_mask allowed) {
    char text[4096];
    cpu_mask online, cpus;
    slurp(text, sizeof text, root, "/sys/devices/system/node/online");
    parse_list(text, online);
    for (int id = 0; id < SL_MAX_CPUS && c->nodes < SL_MAX_NODES; id++) {
        if (!mask_has(online, id))
            continue;
        read_list(cpus, root, node_dir, id, "cpulist");
        for (int i = 0; i < SL_MAX_CPUS / 8; i++)
            cpus[i] &= allowed[i];
        slurp(text, sizeof text, root, "%s%d/meminfo", node_dir, id);
        c->node[c->nodes].id = id;
        c->node[c->nodes].logical = mask_count(cpus);
        c->node[c->nodes].memory = meminfo(text, "MemTotal:");
        c->nodes++;
    }
    if (c->nodes == 0) {
        c->nodes = 1;
        c->node[0].logical = c->logical;
        c->node[0].memory = c->memory;
    }
}

/* ---------------------------------------------------------------- cgroup limits */

/* The path of this process in the hierarchy of a controller ("" = version 2): a line "N:a,b:PATH"
 * of /proc/self/cgroup whose list has the name. */
static bool cgroup_path(const char *root, const char *controller, char path[512]) {
    char text[8192];
    if (!slurp(text, sizeof text, root, "/proc/self/cgroup"))
        return false;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *list = strchr(line, ':'), *at = list ? strchr(list + 1, ':') : NULL;
        if (!at || strlen(at + 1) >= 512)
            continue;
        *at = 0;
        bool found = !*controller && !list[1];
        char *inner = NULL;
        for (char *s = strtok_r(list + 1, ",", &inner); s && *controller;
             s = strtok_r(NULL, ",", &inner))
            found = found || !strcmp(s, controller);
        if (found) {
            strcpy(path, at + 1);
            return true;
        }
    }
    return false;
}

/* A limit holds for all groups below it, so the smallest on the way to the root counts. In a
 * container the path may name folders that only the host sees; then the root is the container's own
 * group. */
typedef double (*limit_fn)(const char *root, const char *dir);

static double smallest_limit(const char *root, const char *mount, char path[512], limit_fn fn) {
    char dir[1024];
    double least = INFINITY;
    for (;;) {
        snprintf(dir, sizeof dir, "%s%s", mount, path);
        least = fmin(least, fn(root, dir));
        char *slash = strrchr(path, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

static double quota_v2(const char *root, const char *dir) {
    char text[64];
    double quota, period;
    return slurp(text, sizeof text, root, "%s/cpu.max", dir) &&
                   sscanf(text, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0
               ? quota / period
               : INFINITY;
}

static double quota_v1(const char *root, const char *dir) {
    char quota[32], period[32];
    return slurp(quota, sizeof quota, root, "%s/cpu.cfs_quota_us", dir) && atof(quota) > 0 &&
                   slurp(period, sizeof period, root, "%s/cpu.cfs_period_us", dir) &&
                   atof(period) > 0
               ? atof(quota) / atof(period)
               : INFINITY;
}

static double memory_v2(const char *root, const char *dir) {
    char text[64];
    return slurp(text, sizeof text, root, "%s/memory.max", dir) && isdigit((unsigned char)*text)
               ? atof(text)
               : INFINITY;
}

static double memory_v1(const char *root, const char *dir) {
    char text[64];
    return slurp(text, sizeof text, root, "%s/memory.limit_in_bytes", dir) ? atof(text) : INFINITY;
}

static double cgroup_limit(const char *root, const char *controller, limit_fn v2, limit_fn v1) {
    char path[512], mount[64];
    double limit = INFINITY;
    if (cgroup_path(root, "", path))
        limit = smallest_limit(root, "/sys/fs/cgroup", path, v2);
    if (cgroup_path(root, controller, path)) {
        snprintf(mount, sizeof mount, "/sys/fs/cgroup/%s", controller);
        limit = fmin(limit, smallest_limit(root, mount, path, v1));
    }
    return limit;
}

/* ---------------------------------------------------------------- names and memory */

/* Value of the first line of /proc/cpuinfo whose key is this one; "" if there is none. */
static void cpuinfo(const char *text, const char *key, char *out, size_t size) {
    size_t n = strlen(key);
    *out = 0;
    for (const char *line = text; line; line = strchr(line, '\n'), line += line != NULL) {
        const char *colon = strpbrk(line, ":\n");
        if (strncmp(line, key, n) || !colon || *colon != ':' || !isspace((unsigned char)line[n]))
            continue;
        colon += strspn(colon, ": \t");
        snprintf(out, size, "%.*s", (int)strcspn(colon, "\n"), colon);
        return;
    }
}

static void read_names(sl_cpu *c, const char *root) {
    static const char *const wanted[] = {
        "sse4_2",   "avx2",        "fma",         "f16c",        "avx_vnni", "avx512f",  "avx512bw",
        "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
        "asimd",    "asimddp",     "bf16",        "i8mm",        "sve",      "sve2"};
    static const char blank[] = " ";
    char text[8192], flags[4096], part[32], *save = NULL;
    slurp(text, sizeof text, root, "/proc/cpuinfo");
    cpuinfo(text, "model name", c->model, sizeof c->model);
    if (!*c->model) {
        cpuinfo(text, "CPU implementer", flags, sizeof flags);
        cpuinfo(text, "CPU part", part, sizeof part);
        snprintf(c->model, sizeof c->model, *flags ? "Arm implementer %.32s part %s" : "unknown",
                 flags, part);
    }
    cpuinfo(text, "flags", flags, sizeof flags);
    if (!*flags)
        cpuinfo(text, "Features", flags, sizeof flags);
    for (char *s = strtok_r(flags, blank, &save); s; s = strtok_r(NULL, blank, &save))
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            if (!strcmp(s, wanted[i]) && strlen(c->flags) + strlen(s) + 2 < sizeof c->flags) {
                strcat(c->flags, *c->flags ? blank : "");
                strcat(c->flags, s);
            }
}

static void read_memory(sl_cpu *c, const char *root) {
    char text[4096], *open, *close;
    double limit = cgroup_limit(root, "memory", memory_v2, memory_v1);
    slurp(text, sizeof text, root, "/proc/meminfo");
    c->memory = meminfo(text, "MemTotal:");
    c->memory_available = meminfo(text, "MemAvailable:");
    if (limit < (double)c->memory)
        c->memory = (int64_t)limit;
    if (limit < (double)c->memory_available)
        c->memory_available = (int64_t)limit;
    slurp(text, sizeof text, root, "/sys/kernel/mm/transparent_hugepage/enabled");
    if ((open = strchr(text, '[')) && (close = strchr(open, ']'))) /* "always [madvise] never" */
        snprintf(c->huge_pages, sizeof c->huge_pages, "%.*s", (int)(close - open - 1), open + 1);
    bool known = slurp(text, sizeof text, root, "/proc/loadavg") && isdigit((unsigned char)*text);
    c->load = known ? atof(text) : -1;
}

void sl_cpu_detect_at(sl_cpu *c, const char *root, const sl_cpu_mask allowed) {
    cpu_mask mask, online;
    char text[8192];
    memset(c, 0, sizeof *c);
    if (allowed)
        memcpy(mask, allowed, sizeof mask);
    else
        sl_cpu_allowed(mask);
    c->logical = mask_count(mask);
    slurp(text, sizeof text, root, "/sys/devices/system/cpu/online");
    parse_list(text, online);
    c->online = mask_count(online);
    if (c->online < c->logical)
        c->online = c->logical;
    read_names(c, root);
    read_memory(c, root);
    read_cores(c, root, mask);
    read_caches(c, root, mask);
    read_nodes(c, root, mask);
    double quota = cgroup_limit(root, "cpu", quota_v2, quota_v1);
    c->quota = isfinite(quota) ? quota : 0;
    c->usable = c->cores;
    if (c->quota > 0 && c->quota < c->usable)
        c->usable = (int)c->quota;
    if (c->usable < 1)
        c->usable = 1;
}

void sl_cpu_detect(sl_cpu *c) { sl_cpu_detect_at(c, "", NULL); }

/* ---------------------------------------------------------------- places of threads */

typedef struct {
    sl_place place;
    int node_rank, core_rank; /* of the node in its socket, of the core in its node; spread deals by them */
} hw_thread;

typedef struct {
    int node[SL_MAX_CPUS], core_rank[SL_MAX_CPUS], siblings[SL_MAX_CPUS]; /* by CPU, core, core */
    int cores[SL_MAX_CPUS]; /* seen on a node */
    int node_socket[SL_MAX_CPUS], node_rank[SL_MAX_CPUS], socket_nodes[SL_MAX_CPUS];
    hw_thread all[SL_MAX_CPUS];
} chooser;

static void read_node_numbers(chooser *s, const char *root) {
    char text[8192];
    cpu_mask online, cpus;
    slurp(text, sizeof text, root, "/sys/devices/system/node/online");
    parse_list(text, online);
    for (int id = 0; id < SL_MAX_CPUS; id++) {
        if (!mask_has(online, id) || !read_list(cpus, root, node_dir, id, "cpulist"))
            continue;
        for (int i = 0; i < SL_MAX_CPUS; i++)
            if (mask_has(cpus, i))
                s->node[i] = id;
    }
}

/* Without the offline ones, unless that leaves none: then the list is wrong. */
static void drop_offline(cpu_mask m, const char *root) {
    char text[8192];
    cpu_mask online;
    slurp(text, sizeof text, root, "/sys/devices/system/cpu/online");
    parse_list(text, online);
    for (int i = 0; i < SL_MAX_CPUS / 8; i++)
        online[i] &= m[i];
    if (mask_first(online) >= 0)
        memcpy(m, online, sizeof online);
}

/* The hardware threads by number, which is how ranks are counted. */
static int read_hw_threads(chooser *s, const char *root, const cpu_mask allowed) {
    int n = 0;
    read_node_numbers(s, root);
    for (int i = 0; i < SL_MAX_CPUS; i++) {
        if (!mask_has(allowed, i))
            continue;
        int core = core_of(root, i), node = s->node[i], socket = socket_of(root, i);
        if (s->siblings[core] == 0) {
            if (s->cores[node] == 0)
                s->node_rank[node] = s->socket_nodes[socket]++;
            s->core_rank[core] = s->cores[node]++;
        }
        s->all[n++] = (hw_thread){{i, core, s->siblings[core]++, node, socket}, s->node_rank[node],
                                  s->core_rank[core]};
    }
    return n;
}

static int compare(const int *a, const int *b, int n) {
    for (int i = 0; i < n; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

static int by_node(const void *x, const void *y) {
    const sl_place *a = x, *b = y;
    return compare((int[]){a->socket, a->node, a->sibling, a->cpu},
                   (int[]){b->socket, b->node, b->sibling, b->cpu}, 4);
}

static int by_turn(const void *x, const void *y) {
    const hw_thread *a = x, *b = y;
    return compare((int[]){a->place.sibling, a->core_rank, a->node_rank, a->place.socket, a->place.cpu},
                   (int[]){b->place.sibling, b->core_rank, b->node_rank, b->place.socket, b->place.cpu}, 5);
}

int sl_cpu_places_at(sl_place *place, int n, enum sl_pin pin, const char *root, const sl_cpu_mask allowed) {
    cpu_mask mask;
    chooser *s = calloc(1, sizeof *s);
    memset(place, 0, (size_t)n * sizeof *place);
    if (!s)
        return 0;
    if (allowed)
        memcpy(mask, allowed, sizeof mask);
    else
        sl_cpu_allowed(mask);
    drop_offline(mask, root);
    int count = read_hw_threads(s, root, mask);
    if (pin == SL_PIN_SPREAD)
        qsort(s->all, (size_t)count, sizeof *s->all, by_turn);
    else if (pin == SL_PIN_COMPACT)
        qsort(s->all, (size_t)count, sizeof *s->all, by_node);
    for (int i = 0; i < n && count; i++)
        place[i] = s->all[i % count].place;
    if (pin == SL_PIN_SPREAD) /* chosen in turn, numbered by node: neighbours share caches */
        qsort(place, (size_t)(n < count ? n : count), sizeof *place, by_node);
    free(s);
    return count;
}

int sl_cpu_places(sl_place *place, int n, enum sl_pin pin) {
    return sl_cpu_places_at(place, n, pin, "", NULL);
}

int sl_cpu_default_threads(void) {
    sl_cpu c;
    sl_cpu_detect(&c);
    const char *omp = getenv("OMP_NUM_THREADS");
    int n = omp ? atoi(omp) : 0;
    return n > 0 && n < c.usable ? n : c.usable;
}
