/* The machine as this process sees it: its affinity mask and cgroup limits count, not what the box
 * has. */
#ifndef SL_BASE_CPU_H
#define SL_BASE_CPU_H

#include <stdbool.h>
#include <stdint.h>

enum { SL_MAX_CPUS = 8192, SL_MAX_NODES = 64 };

/* Hardware threads: bit i%8 of byte i/8, as the kernel has them. */
typedef unsigned char sl_cpu_mask[SL_MAX_CPUS / 8];

typedef struct {
    char model[128]; /* "unknown" if the system does not say */
    char flags[256]; /* instruction sets that matter to the kernels, blanks between */
    int online;      /* hardware threads of the machine */
    int logical;     /* those that this process may run on */
    int cores;       /* physical cores among them */
    double quota;    /* CPUs that the cgroup may use at a time; 0 = no limit */
    int usable;  /* worker threads that can make progress at once: cores, at most the quota; >= 1 */
    int sockets; /* that the cores lie in */
    int nodes;   /* NUMA nodes with memory or CPUs; 1 where the kernel knows none */
    struct {
        int id;
        int logical;    /* CPUs of it that this process may run on */
        int64_t memory; /* bytes; 0 = unknown */
    } node[SL_MAX_NODES];
    int64_t l1d, l2, l3;              /* bytes of one cache; 0 = unknown */
    int64_t l3_total;                 /* of all L3 caches of the allowed cores */
    int64_t memory, memory_available; /* bytes, the cgroup's limit counted; 0 = unknown */
    char huge_pages[16]; /* transparent huge pages: always, madvise, never; "" = unknown */
    double load;         /* of the last minute, of all that runs on the machine; -1 = unknown */
} sl_cpu;

void sl_cpu_detect(sl_cpu *c);
/* Internal (tests): the same with another root for /sys and /proc and the given CPUs, NULL = those of
 * sl_cpu_allowed(). */
void sl_cpu_detect_at(sl_cpu *c, const char *root, const sl_cpu_mask allowed);

/* A hardware thread and where it lies; numbers as the kernel has them. */
typedef struct {
    int cpu, core;    /* a core is called by the first of its hardware threads, allowed or not */
    int sibling;      /* its place among the allowed hardware threads of the core, from 0 */
    int node, socket; /* 0 where the kernel does not say */
} sl_place;

enum sl_pin { SL_PIN_OFF, SL_PIN_COMPACT, SL_PIN_SPREAD };
/* The hardware threads that n worker threads (<= SL_MAX_CPUS) are bound to, thread i to place[i]; again from
 * the first where there are fewer. Threads with neighbouring numbers are neighbours.
 *   compact: one node after the other is filled, in each the physical cores before their siblings
 *   spread:  physical cores before siblings, dealt to sockets and nodes in turn
 *   off:     all by number (threads are not bound)
 * Returns how many hardware threads there are to choose from; they are the allowed ones that are online. */
int sl_cpu_places(sl_place *place, int n, enum sl_pin pin);
int sl_cpu_places_at(sl_place *place, int n, enum sl_pin pin, const char *root, const sl_cpu_mask allowed);

/* Hardware threads of this process: its affinity mask, of OpenMP's places all where the environment
 * binds the threads, or what sl_cpu_keep() kept. */
void sl_cpu_allowed(sl_cpu_mask mask);
/* Binds the calling thread; 0 or -1 with errno. */
int sl_cpu_bind(const sl_cpu_mask mask);
/* Keeps sl_cpu_allowed() as it is now, for threads will be bound; release gives it in mask and forgets it,
 * false if nothing was kept. */
void sl_cpu_keep(void);
bool sl_cpu_release(sl_cpu_mask mask);

/* Threads of a run that does not say how many: the usable cores, fewer if OMP_NUM_THREADS says so.
 */
int sl_cpu_default_threads(void);

/* fp32 GFLOP/s (a multiply-add is 2) of `threads` threads (1..sl_threads()) with the micro-kernel
 * of the best tier on operands in the L1 cache, over about `seconds`. 0 without memory. */
double sl_measure_gflops(int threads, double seconds);
/* GB/s of y += x on arrays far larger than the caches, sl_threads() threads: two reads and a write
 * an element, no hidden traffic. Takes about `seconds` and what touching the memory takes. 0
 * without memory. */
double sl_measure_bandwidth(double seconds);
/* bf16 GFLOP/s of the unit's multiply-adds on registers alone; 0 without a bf16 unit. */
double sl_measure_bf16_gflops(int threads, double seconds);
/* Either one for all threads, measured once (<= 0.15 s) for a number of threads and remembered. */
double sl_measured_peak_gflops(bool bf16);

#endif
