/* Runs a fuzz target without libFuzzer: every file of the seed corpus, then mutants of them from a
 * fixed seed, so that the same inputs come on every machine. Usage: TARGET CORPUS_DIR [mutants
 * [first]] A mutant depends on its number alone: after a crash, `TARGET DIR 1 NUMBER` repeats just
 * that one. */
#include "base/rng.h"
#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum { SEEDS = 256, SEED_BYTES = 1 << 20, MUTANT_BYTES = SEED_BYTES + 4096, HANG_SECONDS = 60 };

typedef struct {
    char name[256];
    uint8_t *data;
    size_t n;
} seed;

static seed seeds[SEEDS];
static int seed_count;
static char now[300]; /* what is being run, for the message of a crash */

static void on_crash(int sig) {
    static const char what[] = "fuzz replay: died or hung on ";
    ssize_t a = write(2, what, sizeof what - 1), b = write(2, now, strlen(now)),
            c = write(2, "\n", 1);
    (void)a, (void)b, (void)c;
    signal(sig, SIG_DFL);
    raise(sig);
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const seed *)a)->name, ((const seed *)b)->name);
}

static void load_seeds(const char *dir) {
    DIR *d = opendir(dir);
    if (!d || chdir(dir) != 0)
        die(dir);
    for (struct dirent *e; (e = readdir(d)) && seed_count < SEEDS;) {
        seed *s = &seeds[seed_count];
        if (e->d_name[0] == '.')
            continue;
        snprintf(s->name, sizeof s->name, "%s", e->d_name);
        FILE *f = fopen(e->d_name, "rb");
        if (!f || !(s->data = malloc(SEED_BYTES)))
            die(e->d_name);
        s->n = fread(s->data, 1, SEED_BYTES, f);
        if (ferror(f))
            die(e->d_name);
        fclose(f);
        seed_count++;
    }
    closedir(d);
    qsort(seeds, (size_t)seed_count, sizeof *seeds, by_name);
}

/* The target gets a block of exactly n bytes, so that a sanitizer sees a read past the end. */
static void run(const uint8_t *data, size_t n) {
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        die("malloc");
    memcpy(copy, data, n);
    setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = HANG_SECONDS}, NULL); /* of CPU time */
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

/* Values at which sizes, counts and offsets in headers go wrong. */
static const uint64_t edges[] = {0,          1,          0x7f,      0x80,
                                 0xff,       0x7fff,     0xffff,    0x7fffffff,
                                 0x80000000, 0xffffffff, INT64_MAX, (uint64_t)1 << 63,
                                 UINT64_MAX};
static const char *const words[] = {"-1",       "0",    "1e999", "9223372036854775808",
                                    "nan",      "null", "[",     "]",
                                    "{",        "}",    "\"",    ":",
                                    ": ",       ",",    "\n",    "\\u0000",
                                    "\xff\xfe", "&a",   "*a",    "<<"};

/* Replaces `cut` bytes at `at` by n others (NULL: leaves room as it is). */
static size_t splice(uint8_t *buf, size_t len, size_t at, size_t cut, const void *with, size_t n) {
    if (len - cut + n > MUTANT_BYTES)
        return len;
    memmove(buf + at + n, buf + at + cut, len - at - cut);
    memcpy(buf + at, with, n);
    return len - cut + n;
}

static size_t mutate_once(sl_rng *r, uint8_t *buf, size_t len) {
    uint8_t chunk[256];
    size_t at = sl_rng_below(r, len + 1), rest = len - at;
    size_t few = rest ? sl_rng_below(r, rest < sizeof chunk ? rest : sizeof chunk) + 1 : 0;
    switch (sl_rng_below(r, 7)) {
    case 0: /* flip a bit */
        if (rest)
            buf[at] ^= (uint8_t)(1u << sl_rng_below(r, 8));
        return len;
    case 1: /* another byte */
        if (rest)
            buf[at] = (uint8_t)sl_rng_u32(r);
        return len;
    case 2: /* cut off the end */ return at;
    case 3: /* remove a few bytes */ return splice(buf, len, at, few, chunk, 0);
    case 4: /* repeat a few bytes elsewhere */
        memcpy(chunk, buf + at, few);
        return splice(buf, len, sl_rng_below(r, len + 1), 0, chunk, few);
    case 5: { /* an edge value, little-endian, 1 to 8 bytes */
        uint64_t v = edges[sl_rng_below(r, sizeof edges / sizeof *edges)];
        size_t width = (size_t)1 << sl_rng_below(r, 4);
        for (size_t i = 0; i < width && i < rest; i++)
            buf[at + i] = (uint8_t)(v >> (8 * i));
        return len;
    }
    default: { /* a word that means something to a text parser, in place of up to its length */
        const char *w = words[sl_rng_below(r, sizeof words / sizeof *words)];
        size_t n = strlen(w), cut = sl_rng_below(r, n + 1);
        return splice(buf, len, at, cut < rest ? cut : rest, w, n);
    }
    }
}

static void run_mutant(uint64_t number) {
    static uint8_t buf[MUTANT_BYTES];
    sl_rng r = sl_rng_make(1, SL_STREAM_TEST, number);
    const seed *s = &seeds[sl_rng_below(&r, (uint64_t)seed_count)];
    memcpy(buf, s->data, s->n);
    size_t len = s->n;
    for (uint64_t k = sl_rng_below(&r, 6) + 1; k > 0; k--)
        len = mutate_once(&r, buf, len);
    snprintf(now, sizeof now, "mutant %llu (of seed %.200s)", (unsigned long long)number, s->name);
    run(buf, len);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS_DIR [mutants [first]]\n", argv[0]);
        return 2;
    }
    const int signals[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPROF};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], on_crash);
    load_seeds(argv[1]);
    if (seed_count == 0) {
        fprintf(stderr, "%s: no seeds\n", argv[1]);
        return 1;
    }
    uint64_t mutants = argc > 2 ? strtoull(argv[2], NULL, 10) : 3000;
    uint64_t first = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    for (int i = 0; i < seed_count && first == 0; i++) {
        snprintf(now, sizeof now, "seed %.200s", seeds[i].name);
        run(seeds[i].data, seeds[i].n);
    }
    for (uint64_t m = first; m < first + mutants; m++)
        run_mutant(m);
    for (int i = 0; i < seed_count; i++)
        free(seeds[i].data);
    printf("%d seeds, %llu mutants\n", seed_count, (unsigned long long)mutants);
    return 0;
}
