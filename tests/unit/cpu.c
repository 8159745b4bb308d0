/* Topology from made-up /sys and /proc trees, and the measurements of the real machine. */
#include "base/cpu.h"

#include "base/threads.h"
#include "scratch.h"
#include "suite.h"

#include <stdarg.h>
#include <sys/stat.h>

static char root[128];

static void new_root(void) {
    static int number;
    snprintf(root, sizeof root, "%s/root%d", scratch, number++);
}

/* Makes the file and the folders it lies in. */
static void put(const char *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(const char *text, const char *fmt, ...) {
    char path[512];
    int n = snprintf(path, sizeof path, "%s", root);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path + n, sizeof path - (size_t)n, fmt, ap);
    va_end(ap);
    for (char *s = path + strlen(scratch) + 1; (s = strchr(s, '/')); s++) {
        *s = 0;
        mkdir(path, 0777);
        *s = '/';
    }
    put_file(path, text, strlen(text));
}

static void allow(unsigned char mask[SL_MAX_CPUS / 8], const int *cpus, int n) {
    memset(mask, 0, SL_MAX_CPUS / 8);
    for (int i = 0; i < n; i++)
        mask[cpus[i] / 8] = (unsigned char)(mask[cpus[i] / 8] | 1 << cpus[i] % 8);
}

/* Two sockets of two cores with two threads each; as on many servers CPU numbers alternate between
 * the sockets: socket = cpu % 2, threads of a core are i and i + 4. A third node has memory alone.
 */
static void two_sockets(void) {
    new_root();
    put("0-7\n", "/sys/devices/system/cpu/online");
    for (int i = 0; i < 8; i++) {
        char text[64];
        snprintf(text, sizeof text, "%d,%d\n", i % 4, i % 4 + 4);
        put(text, "/sys/devices/system/cpu/cpu%d/topology/%s", i,
            i % 2 ? "core_cpus_list" : "thread_siblings_list");
        put(i % 2 ? "1\n" : "0\n", "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", i);
        static const struct {
            const char *level, *type, *size;
        } cache[4] = {{"1", "Data", "48K"},
                      {"1", "Instruction", "32K"},
                      {"2", "Unified", "2048K"},
                      {"3", "Unified", "60M"}};
        for (int k = 0; k < 4; k++) {
            const char *dir = "/sys/devices/system/cpu/cpu";
            put(cache[k].level, "%s%d/cache/index%d/level", dir, i, k);
            put(cache[k].type, "%s%d/cache/index%d/type", dir, i, k);
            put(cache[k].size, "%s%d/cache/index%d/size", dir, i, k);
            put(k == 3 ? (i % 2 ? "1,3,5,7" : "0,2,4,6") : text,
                "%s%d/cache/index%d/shared_cpu_list", dir, i, k);
        }
    }
    put("0-1,4\n", "/sys/devices/system/node/online");
    put("0,2,4,6\n", "/sys/devices/system/node/node0/cpulist");
    put("1,3,5,7\n", "/sys/devices/system/node/node1/cpulist");
    put("\n", "/sys/devices/system/node/node4/cpulist");
    put("Node 0 MemTotal:       1024 kB\n", "/sys/devices/system/node/node0/meminfo");
    put("Node 4 MemTotal:       2048 kB\n", "/sys/devices/system/node/node4/meminfo");
    put("MemTotal:        8192 kB\nMemFree:  1 kB\nMemAvailable:    4096 kB\n", "/proc/meminfo");
    put("processor\t: 0\nmodel name\t: Test CPU @ 2 GHz\nflags\t\t: fpu sse4_2 avx avx2 fma "
        "xavx2\n\nprocessor\t: 1\n",
        "/proc/cpuinfo");
    put("3.25 2.00 1.00 5/107 2981\n", "/proc/loadavg");
    put("always [madvise] never\n", "/sys/kernel/mm/transparent_hugepage/enabled");
}

START_TEST(whole_machine) {
    sl_cpu c;
    unsigned char mask[SL_MAX_CPUS / 8];
    const int all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    two_sockets();
    allow(mask, all, 8);
    sl_cpu_detect_at(&c, root, mask);
    ck_assert_str_eq(c.model, "Test CPU @ 2 GHz");
    ck_assert_str_eq(c.flags, "sse4_2 avx2 fma");
    ck_assert_str_eq(c.huge_pages, "madvise");
    ck_assert(c.online == 8 && c.logical == 8 && c.cores == 4 && c.usable == 4 && c.sockets == 2);
    ck_assert(c.l1d == 48 << 10 && c.l2 == 2 << 20 && c.l3 == 60 << 20 && c.l3_total == 120 << 20);
    ck_assert(c.nodes == 3 && c.node[0].id == 0 && c.node[1].id == 1 && c.node[2].id == 4);
    ck_assert(c.node[0].logical == 4 && c.node[1].logical == 4 && c.node[2].logical == 0);
    ck_assert(c.node[0].memory == 1 << 20 && c.node[1].memory == 0 && c.node[2].memory == 2 << 20);
    ck_assert(c.quota == 0 && c.memory == 8 << 20 && c.memory_available == 4 << 20);
    ck_assert(c.load == 3.25);
}
END_TEST

START_TEST(affinity_mask) {
    sl_cpu c;
    unsigned char mask[SL_MAX_CPUS / 8];
    const int some[] = {4, 5, 0}; /* 0 and 4 are one core */
    two_sockets();
    allow(mask, some, 3);
    sl_cpu_detect_at(&c, root, mask);
    ck_assert(c.online == 8 && c.logical == 3 && c.cores == 2 && c.usable == 2 && c.sockets == 2);
    ck_assert(c.node[0].logical == 2 && c.node[1].logical == 1);
    allow(mask, some + 1, 1);
    sl_cpu_detect_at(&c, root, mask);
    ck_assert(c.logical == 1 && c.cores == 1 && c.sockets == 1 && c.l3_total == 60 << 20);
}
END_TEST

START_TEST(cgroup_limits) {
    sl_cpu c;
    unsigned char mask[SL_MAX_CPUS / 8];
    const int all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    allow(mask, all, 8);
    two_sockets(); /* version 2; the parent's limit is the smaller */
    put("0::/a/b\n", "/proc/self/cgroup");
    put("300000 100000\n", "/sys/fs/cgroup/a/b/cpu.max");
    put("250000 100000\n", "/sys/fs/cgroup/a/cpu.max");
    put("max 100000\n", "/sys/fs/cgroup/cpu.max");
    put("max\n", "/sys/fs/cgroup/a/b/memory.max");
    put("1048576\n", "/sys/fs/cgroup/a/memory.max");
    sl_cpu_detect_at(&c, root, mask);
    ck_assert(c.quota == 2.5 && c.cores == 4 && c.usable == 2);
    ck_assert(c.memory == 1 << 20 && c.memory_available == 1 << 20);

    two_sockets(); /* version 1, in a container: the path is the host's */
    put("5:cpuacct,cpu:/docker/x\n3:memory:/docker/x\n0::/\n", "/proc/self/cgroup");
    put("50000\n", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    put("100000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    put("9223372036854771712\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes");
    sl_cpu_detect_at(&c, root, mask);
    ck_assert(c.quota == 0.5 && c.usable == 1 && c.memory == 8 << 20);

    put("-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"); /* no limit */
    sl_cpu_detect_at(&c, root, mask);
    ck_assert(c.quota == 0 && c.usable == 4);
}
END_TEST

static void places_are(enum sl_pin pin, const unsigned char *mask, int n, const int *want) {
    sl_place place[16];
    sl_cpu_places_at(place, n, pin, root, mask);
    for (int i = 0; i < n; i++)
        ck_assert_msg(place[i].cpu == want[i], "pin %d, thread %d of %d: cpu %d, not %d", pin, i, n,
                      place[i].cpu, want[i]);
}
#define PLACES(pin, mask, ...)                                                                     \
    places_are(pin, mask, sizeof((int[]){__VA_ARGS__}) / sizeof(int), (int[]){__VA_ARGS__})

START_TEST(places_of_threads) {
    sl_place place[8];
    unsigned char mask[SL_MAX_CPUS / 8];
    const int all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    two_sockets();
    allow(mask, all, 8);
    ck_assert_int_eq(sl_cpu_places_at(place, 8, SL_PIN_OFF, root, mask), 8);
    for (int i = 0; i < 8; i++)
        ck_assert(place[i].cpu == i && place[i].core == i % 4 && place[i].sibling == i / 4 &&
                  place[i].node == i % 2 && place[i].socket == i % 2);
    /* Node 0 with cores before siblings, then node 1. */
    PLACES(SL_PIN_COMPACT, mask, 0, 2, 4, 6, 1, 3, 5, 7, 0, 2);
    PLACES(SL_PIN_COMPACT, mask, 0, 2);
    /* Chosen from the nodes in turn, numbered by node. */
    PLACES(SL_PIN_SPREAD, mask, 0);
    PLACES(SL_PIN_SPREAD, mask, 0, 1);
    PLACES(SL_PIN_SPREAD, mask, 0, 2, 1);
    PLACES(SL_PIN_SPREAD, mask, 0, 2, 1, 3);
    PLACES(SL_PIN_SPREAD, mask, 0, 2, 4, 1, 3);
    PLACES(SL_PIN_SPREAD, mask, 0, 2, 4, 6, 1, 3, 5, 7);
    const int some[] = {4, 6, 7, 3}; /* second threads only, but for core 3 */
    allow(mask, some, 4);
    PLACES(SL_PIN_SPREAD, mask, 4, 6, 3, 7);
    PLACES(SL_PIN_SPREAD, mask, 4, 3);
    ck_assert_int_eq(sl_cpu_places_at(place, 4, SL_PIN_COMPACT, root, mask), 4);
    ck_assert(place[0].cpu == 4 && place[0].core == 0 && place[0].sibling == 0);
    ck_assert(place[3].cpu == 7 && place[3].core == 3 && place[3].sibling == 1);
    put("0-2,4\n", "/sys/devices/system/cpu/online"); /* 3, 6 and 7 were switched off */
    PLACES(SL_PIN_SPREAD, mask, 4, 4);
}
END_TEST

/* Nodes numbered 2 and 5 and 9; 5 has memory alone; two nodes in socket 0 and one in socket 1. */
START_TEST(places_with_holes) {
    unsigned char mask[SL_MAX_CPUS / 8];
    const int cpus[] = {0, 1, 10, 11, 20, 21};
    new_root();
    allow(mask, cpus, 6);
    put("2,5,9,12\n", "/sys/devices/system/node/online");
    put("0-1\n", "/sys/devices/system/node/node2/cpulist");
    put("\n", "/sys/devices/system/node/node5/cpulist");
    put("10-11\n", "/sys/devices/system/node/node9/cpulist");
    put("20-21\n", "/sys/devices/system/node/node12/cpulist");
    for (int i = 0; i < 6; i++)
        put(i < 4 ? "0\n" : "1\n", "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpus[i]);
    PLACES(SL_PIN_COMPACT, mask, 0, 1, 10, 11, 20, 21);
    PLACES(SL_PIN_SPREAD, mask, 0, 20);     /* sockets first */
    PLACES(SL_PIN_SPREAD, mask, 0, 10, 20); /* then their nodes */
    PLACES(SL_PIN_SPREAD, mask, 0, 1, 10, 20);
    PLACES(SL_PIN_SPREAD, mask, 0, 1, 10, 20, 21);
}
END_TEST

START_TEST(places_of_nonsense) {
    sl_place place[4];
    unsigned char mask[SL_MAX_CPUS / 8];
    const int two[] = {1, 8191};
    allow(mask, two, 2);
    new_root(); /* nothing to read: by number, each its own core */
    PLACES(SL_PIN_SPREAD, mask, 1, 8191, 1);
    PLACES(SL_PIN_COMPACT, mask, 1, 8191, 1);
    put("3\n", "/sys/devices/system/cpu/online"); /* none of ours */
    put("0-999999999\n", "/sys/devices/system/node/online");
    put("8191,x\n", "/sys/devices/system/node/node8191/cpulist");
    put("1,8190-99999\n", "/sys/devices/system/node/node7/cpulist");
    put("0-99999999999999999999\n", "/sys/devices/system/cpu/cpu1/topology/core_cpus_list");
    put("-5\n", "/sys/devices/system/cpu/cpu8191/topology/core_cpus_list");
    put("-1\n", "/sys/devices/system/cpu/cpu1/topology/physical_package_id");
    put("999999999\n", "/sys/devices/system/cpu/cpu8191/topology/physical_package_id");
    for (int pin = SL_PIN_OFF; pin <= SL_PIN_SPREAD; pin++) {
        ck_assert_int_eq(sl_cpu_places_at(place, 4, (enum sl_pin)pin, root, mask), 2);
        ck_assert(place[0].cpu == 1 && place[0].node == 7 && place[0].socket == 0 && place[0].core == 0);
        ck_assert(place[1].cpu == 8191 && place[1].node == 8191 && place[1].socket == 0 &&
                  place[1].core == 8191);
    }
}
END_TEST

START_TEST(nothing_to_read_and_nonsense) {
    sl_cpu c;
    unsigned char mask[SL_MAX_CPUS / 8];
    const int two[] = {1, 8191};
    allow(mask, two, 2);
    new_root();
    sl_cpu_detect_at(&c, root, mask);
    ck_assert_str_eq(c.model, "unknown");
    ck_assert(c.online == 2 && c.logical == 2 && c.cores == 2 && c.sockets == 1 && c.nodes == 1);
    ck_assert(c.node[0].logical == 2 && c.l1d == 0 && c.memory == 0 && c.load == -1);
    put("5-,x,-3,99999999999999999999-1\n", "/sys/devices/system/cpu/online");
    put("0-999999999\n", "/sys/devices/system/node/online");
    put("8190-99999\n", "/sys/devices/system/node/node3/cpulist");
    put("[", "/sys/kernel/mm/transparent_hugepage/enabled");
    put(":::\n0:\n\n::", "/proc/self/cgroup");
    put("model name\nflags", "/proc/cpuinfo");
    sl_cpu_detect_at(&c, root, mask);
    ck_assert(c.nodes == SL_MAX_NODES && c.node[3].logical == 1 && c.node[4].logical == 0 &&
              c.usable == 2);
    ck_assert_str_eq(c.huge_pages, "");
}
END_TEST

START_TEST(this_machine) {
    sl_cpu c;
    sl_cpu_detect(&c);
    ck_assert(c.logical >= 1 && c.online >= c.logical && c.cores >= 1 && c.cores <= c.logical);
    ck_assert(c.usable >= 1 && c.usable <= c.cores && c.sockets >= 1 && c.nodes >= 1 &&
              c.memory > 0);
    unsetenv("OMP_NUM_THREADS");
    ck_assert_int_eq(sl_cpu_default_threads(), c.usable);
    setenv("OMP_NUM_THREADS", "1,2", 1);
    ck_assert_int_eq(sl_cpu_default_threads(), 1);
    setenv("OMP_NUM_THREADS", "100000", 1);
    ck_assert_int_eq(sl_cpu_default_threads(), c.usable);
    unsetenv("OMP_NUM_THREADS");
    sl_threads_set(0);
    ck_assert_int_eq(sl_threads(), c.usable);
}
END_TEST

/* Wide bounds: a scalar tier under an emulator and the largest servers both pass; a wrong unit does
 * not. */
START_TEST(measurements) {
    sl_threads_set(2);
    double one = sl_measure_gflops(1, 0.05), peak = sl_measured_peak_gflops(false),
           rate = sl_measure_bandwidth(0.05);
    ck_assert_msg(one > 0.01 && one < 1000, "%g GFLOP/s", one);
    ck_assert_msg(peak > 0.01 && peak < 2000, "%g GFLOP/s", peak);
    ck_assert_msg(rate > 0.01 && rate < 5000, "%g GB/s", rate);
    ck_assert(sl_measured_peak_gflops(false) == peak); /* remembered */
}
END_TEST

int main(void) {
    Suite *s = suite_create("cpu");
    TCase *t = tcase_create("cpu");
    tcase_add_unchecked_fixture(t, scratch_make, scratch_remove);
    tcase_add_test(t, whole_machine);
    tcase_add_test(t, affinity_mask);
    tcase_add_test(t, cgroup_limits);
    tcase_add_test(t, places_of_threads);
    tcase_add_test(t, places_with_holes);
    tcase_add_test(t, places_of_nonsense);
    tcase_add_test(t, nothing_to_read_and_nonsense);
    tcase_add_test(t, this_machine);
    tcase_add_test(t, measurements);
    suite_add_tcase(s, t);
    return run_suite(s);
}
