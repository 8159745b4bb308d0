/* sinklab doctor: what the machine offers, what it measures, and what would make a run slow on it.
 */
#include "base/blas.h"
#include "base/cpu.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/threads.h"
#include "cli/args.h"
#include "cli/doctor_device.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "simd/kernels.h"

#include <jansson.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WARNINGS = 16 };

typedef struct {
    char what[256];
    const char *mend;
} warning;

/* Where the pages of one kind of block lie. */
typedef struct {
    const char *kind;
    int on[SL_MAX_NODES], pages; /* by place in sl_cpu.node; those that are known */
} placement;

enum { SPLIT, SHARED, SCRATCH, KINDS };

typedef struct {
    sl_cpu cpu;
    int pin; /* enum sl_pin */
    const char *bound_by;
    sl_place *place;         /* of each worker thread when they are pinned, else NULL */
    sl_place *hw;            /* all hardware threads of the process */
    int hw_threads, smt;     /* most of them on one core */
    placement memory[KINDS];
    double huge_share;       /* of a large block that came in huge pages; -1 = unknown */
    const sl_kernels *kernels;
    int threads, team;                                        /* asked for; given by OpenMP */
    const char *proc_bind;
    const char *blas_name, *blas, *blas_core, *blas_parallel; /* the library, NULL: none; the others: of OpenBLAS */
    char no_blas[256];                                        /* why there is none */
    double gflops_1, gflops, bandwidth;
    warning warning[MAX_WARNINGS];
    int warnings;
} findings;

/* ---------------------------------------------------------------- looking */

static int team_size(int threads) {
    int n = 1;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        n = omp_get_num_threads();
    }
    return n;
}

static const char *proc_bind_name(void) {
    switch (omp_get_proc_bind()) {
    case omp_proc_bind_false: return "false";
    case omp_proc_bind_true: return "true";
    case omp_proc_bind_close: return "close";
    case omp_proc_bind_spread: return "spread";
    default: return "primary";
    }
}

/* Of OpenBLAS alone; other libraries do not tell. */
static void look_at_blas(findings *f) {
    static const char *const parallel[] = {"sequential", "pthread", "openmp"};
    const sl_blas *b = sl_blas_load();
    int (*kind)(void);
    char *(*config)(void), *(*core)(void);
    if (!b) {
        snprintf(f->no_blas, sizeof f->no_blas, "%s", sl_error());
        return;
    }
    f->blas_name = sl_blas_name(b);
    *(void **)&kind = sl_blas_function(b, "openblas_get_parallel");
    *(void **)&config = sl_blas_function(b, "openblas_get_config");
    *(void **)&core = sl_blas_function(b, "openblas_get_corename");
    if (!kind || !config || !core)
        return;
    f->blas = config();
    f->blas_core = core();
    f->blas_parallel = kind() >= 0 && kind() <= 2 ? parallel[kind()] : "unknown";
}

static int look_at_places(findings *f) {
    f->bound_by = sl_threads_bound_by();
    f->hw = calloc(SL_MAX_CPUS, sizeof *f->hw);
    f->place = f->pin && !f->bound_by ? calloc(SL_MAX_THREADS, sizeof *f->place) : NULL;
    if (!f->hw || (f->pin && !f->bound_by && !f->place))
        return sl_fail("out of memory for the places of threads");
    f->hw_threads = sl_cpu_places(f->hw, SL_MAX_CPUS, SL_PIN_OFF);
    for (int i = 0; i < f->hw_threads; i++)
        f->smt = f->hw[i].sibling >= f->smt ? f->hw[i].sibling + 1 : f->smt;
    if (f->place)
        sl_cpu_places(f->place, f->threads, (enum sl_pin)f->pin);
    return 0;
}

/* Bytes of this process in huge pages; -1 if the system does not say. */
static double huge_bytes(void) {
    char line[256];
    double kib = -1;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && kib < 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "AnonHugePages: %lf kB", &kib) != 1)
            kib = -1;
    if (file)
        fclose(file);
    return kib < 0 ? -1 : kib * 1024;
}

static void count_nodes(findings *f, placement *p, char *block, size_t bytes) {
    enum { PAGES = 1024 };
    void *page[PAGES];
    int node[PAGES];
    for (size_t i = 0; i < PAGES; i++)
        page[i] = block + bytes / PAGES * i;
    sl_page_nodes(PAGES, page, node);
    for (int i = 0; i < PAGES; i++)
        for (int j = 0; j < f->cpu.nodes; j++)
            if (node[i] == f->cpu.node[j].id)
                p->on[j]++, p->pages++;
}

/* Allocates a block of each kind and asks where its pages went. */
static void look_at_memory(findings *f) {
    static const char *const kind[KINDS] = {"split", "shared", "scratch"};
    const size_t each = (size_t)4 << 20, bytes = each * (size_t)f->threads;
    f->huge_share = -1;
    for (int k = 0; k < KINDS; k++) {
        double before = huge_bytes();
        char *block = k == SPLIT ? sl_alloc(bytes, kind[k])
                      : k == SHARED ? sl_alloc_shared(bytes, kind[k])
                                    : sl_alloc_threads(f->threads, each, kind[k]);
        f->memory[k].kind = kind[k];
        if (!block)
            continue;
        if (k == SPLIT && before >= 0)
            f->huge_share = (huge_bytes() - before) / (double)bytes;
        count_nodes(f, &f->memory[k], block, bytes);
        sl_free(block);
    }
}

static int look(findings *f, int threads) {
    sl_cpu_detect(&f->cpu);
    f->kernels = sl_kernels_select(SL_ISA_AUTO);
    if (sl_threads_start(threads, (enum sl_pin)f->pin))
        return -1;
    f->threads = sl_threads();
    f->team = team_size(f->threads);
    if (look_at_places(f))
        return -1;
    look_at_memory(f);
    f->proc_bind = proc_bind_name();
    look_at_blas(f);
    f->gflops_1 = sl_measure_gflops(1, 0.3);
    f->gflops = f->threads > 1 ? sl_measure_gflops(f->threads, 0.3) : f->gflops_1;
    f->bandwidth = sl_measure_bandwidth(0.3);
    return 0;
}

/* ---------------------------------------------------------------- judging */

static void warn(findings *f, const char *mend, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void warn(findings *f, const char *mend, const char *fmt, ...) {
    warning *w = &f->warning[f->warnings];
    va_list ap;
    if (f->warnings == MAX_WARNINGS)
        return;
    va_start(ap, fmt);
    vsnprintf(w->what, sizeof w->what, fmt, ap);
    va_end(ap);
    w->mend = mend;
    f->warnings++;
}

static void judge_threads(findings *f) {
    const sl_cpu *c = &f->cpu;
    const char *omp = getenv("OMP_NUM_THREADS");
    int omp_threads = omp ? atoi(omp) : 0;
    if (omp_threads > 0 && omp_threads < c->usable)
        warn(f, "unset OMP_NUM_THREADS, or give threads=N, which overrides it",
             "OMP_NUM_THREADS=%d keeps %d of %d usable cores idle", omp_threads,
             c->usable - omp_threads, c->usable);
    else if (f->threads == 1 && c->usable > 1)
        warn(f, "leave threads at 0 for one thread per core",
             "one thread, though %d cores can be used", c->usable);
    else if (f->threads < c->usable)
        warn(f, "leave threads at 0 for one thread per core",
             "%d threads, though %d cores can be used", f->threads, c->usable);
    if (f->threads > c->usable)
        warn(f, "leave threads at 0 for one thread per core",
             "%d threads for %d usable cores: they wait for each other", f->threads, c->usable);
    if (f->team < f->threads)
        warn(f, "unset OMP_THREAD_LIMIT", "OpenMP gives %d threads where %d are asked for", f->team,
             f->threads);
    if (c->quota > 0 && c->quota < c->cores)
        warn(f, "raise the container's CPU limit (docker --cpus, Kubernetes limits.cpu)",
             "a cgroup quota of %.2f CPUs is below the %d cores", c->quota, c->cores);
    if (c->logical < c->online)
        warn(f,
             "start it without taskset, or ask the scheduler for more CPUs (Slurm --cpus-per-task)",
             "the affinity mask allows %d of %d hardware threads", c->logical, c->online);
    if (f->threads > 1 && f->threads <= c->usable && f->gflops < 0.6 * f->threads * f->gflops_1)
        warn(f, "stop what else is running; on a virtual machine, the host may share the cores",
             "%d threads reach %.1f times the speed of one", f->threads, f->gflops / f->gflops_1);
    if (c->nodes > 1 && f->threads > 1 && !f->place && !strcmp(f->proc_bind, "false"))
        warn(f, "set pin=spread if the machine is yours alone",
             "%d NUMA nodes and threads that may move between them", c->nodes);
    if (f->pin && f->bound_by)
        warn(f, "unset it, or leave pin off", "pin has no effect: %s decides where threads run",
             f->bound_by);
}

static void judge_other_work(findings *f) {
    const sl_cpu *c = &f->cpu;
    if (c->load < 0.5 || c->load + f->threads <= c->online)
        return;
    if (!getenv("GOMP_SPINCOUNT") && !getenv("OMP_WAIT_POLICY"))
        warn(f, "set GOMP_SPINCOUNT=1000 (GNU) or OMP_WAIT_POLICY=passive, or give fewer threads",
             "load average %.1f: other work shares the %d hardware threads, and waiting threads spin",
             c->load, c->online);
    if (f->place)
        warn(f, "leave pin off", "load average %.1f: pinned threads cannot move away from other work",
             c->load);
}

static void judge_memory(findings *f) {
    if (!strcmp(f->cpu.huge_pages, "never"))
        warn(f, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root)",
             "transparent huge pages are off: more TLB misses in large matrices");
    else if (f->huge_share >= 0 && f->huge_share < 0.5)
        warn(f, "echo 1 > /proc/sys/vm/compact_memory (as root), or free memory",
             "only %.0f %% of a large block came in huge pages", 100 * f->huge_share);
    if (f->cpu.nodes > 1 && f->memory[SPLIT].pages == 0)
        warn(f, "build with libnuma-dev; in a container allow it (docker --cap-add SYS_NICE)",
             "cannot ask where memory lies, nor interleave it");
}

static void judge(findings *f) {
    judge_threads(f);
    judge_other_work(f);
    judge_memory(f);
    if (!strcmp(f->kernels->tier, "scalar"))
        warn(f, "use a machine with AVX2 (x86-64 since 2013) or NEON (any 64-bit Arm)",
             "no AVX2: the kernels run without vector units, many times slower");
    if (f->blas && !strcmp(f->blas_parallel, "pthread"))
        warn(f,
             "install libopenblas0-openmp (Debian, Ubuntu) and choose it with update-alternatives",
             "OpenBLAS is the pthread build: its threads fight with OpenMP's, and comparisons with "
             "it mislead");
    if (f->blas && f->kernels->vl == 16 &&
        (!strcmp(f->blas_core, "Haswell") || !strcmp(f->blas_core, "Zen")))
        warn(f, "set OPENBLAS_CORETYPE=SkylakeX to compare like with like",
             "OpenBLAS, the yardstick, runs its AVX2 kernels (%s) though AVX-512 is there",
             f->blas_core);
}

/* ---------------------------------------------------------------- telling */

/* "48 KiB", "1.5 GiB"; "unknown" of 0. */
static const char *bytes_text(char out[32], int64_t n) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double x = (double)n;
    int u = 0;
    for (; x >= 1024 && u < 4; u++)
        x /= 1024;
    snprintf(out, 32, n ? "%.4g %s" : "unknown", x, unit[u]);
    return out;
}

static const char *plural(int n) { return n == 1 ? "" : "s"; }

static void print_machine(const sl_cpu *c) {
    char a[32], b[32], d[32];
    printf("cpu        %s\n", c->model);
    printf("           %s\n", c->flags);
    printf("cores      %d core%s, %d of %d hardware thread%s allowed, %d socket%s", c->cores,
           plural(c->cores), c->logical, c->online, plural(c->online), c->sockets,
           plural(c->sockets));
    if (c->quota > 0)
        printf(", cgroup quota %.2f CPUs", c->quota);
    printf("\nnuma       %d node%s", c->nodes, plural(c->nodes));
    for (int i = 0; i < c->nodes; i++)
        printf("%s node %d: %d threads, %s", i ? ";" : ":", c->node[i].id, c->node[i].logical,
               bytes_text(a, c->node[i].memory));
    printf("\ncaches     L1d %s, L2 %s, L3 %s", bytes_text(a, c->l1d), bytes_text(b, c->l2),
           bytes_text(d, c->l3));
    if (c->l3_total > c->l3)
        printf(" (%s in all)", bytes_text(a, c->l3_total));
    printf("\nmemory     %s, %s available; huge pages: %s", bytes_text(a, c->memory),
           bytes_text(b, c->memory_available), *c->huge_pages ? c->huge_pages : "unknown");
}

/* "0,4 1,5": the hardware threads of each core that has several. */
static void print_siblings(const findings *f) {
    printf("smt        %d hardware thread%s a core", f->smt, plural(f->smt));
    const char *before = ": ";
    for (int i = 0; i < f->hw_threads; i++) {
        int shown = f->hw[i].sibling;
        for (int j = i + 1; j < f->hw_threads && shown == 0; j++)
            if (f->hw[j].core == f->hw[i].core) {
                for (printf("%s%d", before, f->hw[i].cpu); j < f->hw_threads; j++)
                    if (f->hw[j].core == f->hw[i].core)
                        printf(",%d", f->hw[j].cpu);
                before = " ";
            }
    }
    puts("");
}

static void print_places(const findings *f) {
    printf("pin        %s", f->bound_by ? "left to " : sl_choices_pin[f->pin].name);
    if (f->bound_by)
        printf("%s", f->bound_by);
    else if (!f->place)
        printf(": the system moves threads");
    for (int i = 0; f->place && i < f->threads; i++)
        if (i == 0 || f->place[i].node != f->place[i - 1].node)
            printf("%s node %d: cpu %d", i ? ";" : ":", f->place[i].node, f->place[i].cpu);
        else
            printf(" %d", f->place[i].cpu);
    puts("");
}

/* Shares of nodes that have pages, e.g. "split: node 0 50 %, node 1 50 %". */
static void print_placement(const findings *f) {
    printf("placement ");
    for (int k = 0; k < KINDS; k++) {
        const placement *p = &f->memory[k];
        printf("%s %s:%s", k ? ";" : "", p->kind, p->pages ? "" : " unknown");
        const char *before = "";
        for (int j = 0; j < f->cpu.nodes; j++)
            if (p->on[j]) {
                printf("%s node %d %.0f %%", before, f->cpu.node[j].id, 100.0 * p->on[j] / p->pages);
                before = ",";
            }
    }
    puts("");
}

static void print_findings(const findings *f) {
    print_machine(&f->cpu);
    if (f->huge_share >= 0)
        printf(", %.0f %% of a large block", 100 * f->huge_share);
    puts("");
    print_placement(f);
    print_siblings(f);
    print_places(f);
    printf("kernels    tier %s, %d floats a vector\n", f->kernels->tier, f->kernels->vl);
    printf("openmp     version %d, %d thread%s, proc_bind %s\n", _OPENMP, f->team, plural(f->team),
           f->proc_bind);
    if (f->blas)
        printf("blas       %s: %s, core %s, %s (for gemm=blas, and the yardstick of bench)\n", f->blas_name, f->blas,
               f->blas_core, f->blas_parallel);
    else
        printf("blas       %s (for gemm=blas, and the yardstick of bench; nothing else needs it)\n",
               f->blas_name ? f->blas_name : f->no_blas);
    printf("peak fp32  %.0f GFLOP/s with 1 thread", f->gflops_1);
    if (f->threads > 1)
        printf(", %.0f GFLOP/s with %d", f->gflops, f->threads);
    printf("\nbandwidth  %.1f GB/s with %d thread%s\n", f->bandwidth, f->threads,
           plural(f->threads));
    sl_doctor_print_devices();
    if (f->cpu.load >= 0)
        printf("load       %.2f in the last minute, of everything on the machine\n", f->cpu.load);
    for (int i = 0; i < f->warnings; i++)
        printf("warning: %s; %s\n", f->warning[i].what, f->warning[i].mend);
    if (f->warnings == 0)
        puts("nothing found that would make a run slow");
}

static json_t *machine_json(const sl_cpu *c) {
    json_t *nodes = json_array();
    for (int i = 0; i < c->nodes; i++)
        json_array_append_new(nodes, json_pack("{s:i, s:i, s:I}", "id", c->node[i].id,
                                               "hardware_threads", c->node[i].logical,
                                               "memory_bytes", (json_int_t)c->node[i].memory));
    return json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:{s:I, s:I, s:I, s:I}, s:I, s:I, s:s}",
        "cpu", c->model, "flags", c->flags, "cores", c->cores, "usable_cores", c->usable,
        "hardware_threads", c->logical, "hardware_threads_online", c->online, "sockets", c->sockets,
        "cgroup_quota_cpus", c->quota > 0 ? json_real(c->quota) : json_null(), "numa_nodes", nodes,
        "caches", "l1d_bytes", (json_int_t)c->l1d, "l2_bytes", (json_int_t)c->l2, "l3_bytes",
        (json_int_t)c->l3, "l3_total_bytes", (json_int_t)c->l3_total, "memory_bytes",
        (json_int_t)c->memory, "memory_available_bytes", (json_int_t)c->memory_available,
        "huge_pages", c->huge_pages);
}

static json_t *place_json(const sl_place *p) {
    return json_pack("{s:i, s:i, s:i, s:i, s:i}", "cpu", p->cpu, "core", p->core, "sibling", p->sibling,
                     "node", p->node, "socket", p->socket);
}

static json_t *places_json(const sl_place *place, int n) {
    json_t *list = json_array();
    for (int i = 0; place && i < n; i++)
        json_array_append_new(list, place_json(&place[i]));
    return list;
}

/* {"split": {"0": 0.5, "1": 0.5}, ...}: shares of the nodes, by their number; {} = unknown. */
static json_t *placement_json(const findings *f) {
    json_t *o = json_object();
    for (int k = 0; k < KINDS; k++) {
        const placement *p = &f->memory[k];
        json_t *nodes = json_object();
        for (int j = 0; j < f->cpu.nodes; j++) {
            char id[16];
            snprintf(id, sizeof id, "%d", f->cpu.node[j].id);
            if (p->on[j])
                json_object_set_new(nodes, id, json_real((double)p->on[j] / p->pages));
        }
        json_object_set_new(o, p->kind, nodes);
    }
    return o;
}

static json_t *threads_json(const findings *f) {
    return json_pack("{s:s, s:s?, s:o, s:o, s:i, s:o, s:o, s:o}", "pin", sl_choices_pin[f->pin].name, "bound_by",
                     f->bound_by, "thread_places", places_json(f->place, f->threads), "hardware",
                     places_json(f->hw, f->hw_threads), "smt", f->smt, "placement", placement_json(f),
                     "huge_page_share", f->huge_share >= 0 ? json_real(f->huge_share) : json_null(),
                     "load_average", f->cpu.load >= 0 ? json_real(f->cpu.load) : json_null());
}

static int print_json(const findings *f) {
    json_t *warnings = json_array(), *o = machine_json(&f->cpu), *places = threads_json(f);
    for (int i = 0; i < f->warnings; i++)
        json_array_append_new(warnings, json_pack("{s:s, s:s}", "what", f->warning[i].what, "mend",
                                                  f->warning[i].mend));
    json_t *blas = f->blas ? json_pack("{s:s, s:s, s:s}", "config", f->blas, "core", f->blas_core,
                                       "parallel", f->blas_parallel)
                           : json_null();
    json_t *rest =
        json_pack("{s:s, s:i, s:i, s:{s:i, s:i, s:s}, s:s?, s:o, s:f, s:f, s:f, s:o}", "tier",
                  f->kernels->tier, "vector_floats", f->kernels->vl, "threads", f->threads,
                  "openmp", "version", _OPENMP, "threads", f->team, "proc_bind", f->proc_bind,
                  "blas", f->blas_name, "openblas", blas, "peak_gflops_1_thread", f->gflops_1, "peak_gflops", f->gflops,
                  "bandwidth_gb_s", f->bandwidth, "warnings", warnings);
    json_t *devices = sl_doctor_devices_json();
    int rc = json_object_update(o, rest) || json_object_update(o, places) || json_object_update(o, devices) ? -1 : 0;
    json_decref(devices);
    json_decref(places);
    if (rc == 0)
        rc = json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    puts("");
    json_decref(rest);
    json_decref(o);
    return rc < 0 ? sl_fail("cannot write the JSON of doctor to the standard output") : 0;
}

static int read_pin(findings *f, const char *name) {
    for (f->pin = 0; sl_choices_pin[f->pin].name; f->pin++)
        if (!strcmp(name, sl_choices_pin[f->pin].name))
            return 0;
    char quoted[SL_QUOTE_CHARS];
    return sl_fail_usage("--pin: expected off, compact or spread; found %s", sl_quote(quoted, name));
}

int sl_verb_doctor(int argc, char **argv) {
    bool json = false;
    int64_t threads = 0;
    const char *pin = "off";
    const sl_flag flags[] = {SL_FLAG_INT("threads", "N", &threads, 0, SL_MAX_THREADS,
                                         "threads to measure with; 0 = one per usable core"),
                             SL_FLAG_STR("pin", "HOW", &pin,
                                         "off, compact or spread, as the key pin: shows where threads would run, "
                                         "and measures with them there"),
                             SL_FLAG_BOOL("json", &json, "print JSON"), SL_FLAG_END};
    const sl_verb_spec spec = {.verb = "doctor",
                               .operands = "",
                               .about = "Says what this machine offers (kernel tier, cores, NUMA "
                                        "nodes, caches, memory and where it lies, SMT, OpenMP, OpenBLAS, GPUs), "
                                        "measures its peak in fp32 GFLOP/s and its memory "
                                        "bandwidth in about two seconds, and warns of what "
                                        "would make a run slow, with the mend.",
                               .flags = flags,
                               .examples = "sinklab doctor\nsinklab doctor --pin spread\n"
                                           "sinklab doctor --threads 1 --json\n"};
    sl_args args;
    int rc = sl_args_parse(&spec, argc, argv, &args);
    if (rc)
        return rc < 0 ? -1 : 0;
    findings f = {.threads = 0};
    rc = read_pin(&f, pin) || look(&f, (int)threads) ? -1 : 0;
    if (rc == 0) {
        judge(&f);
        if (json)
            rc = print_json(&f);
        else
            print_findings(&f);
    }
    free(f.place);
    free(f.hw);
    return rc;
}
