#include "cuda/measure.h"

#include "cuda/runtime.h"

/* What is timed works on these. */
typedef struct {
    slc_stream stream;
    slc_blas *blas;
    void *a, *b, *y;
    int64_t n; /* side of a matrix, or bytes */
    bool bf16;
} work;

static int multiply(const work *w) {
    slc_product p = {.m = w->n, .n = w->n, .k = w->n, .bf16 = w->bf16, .y_bf16 = w->bf16, .tb = true, .a = w->a,
                     .b = w->b, .lda = w->n, .ldb = w->n, .y = w->y, .ldy = w->n, .scale = 1};
    return slc_multiply(w->blas, w->stream, &p);
}

static int copy(const work *w) {
    slc_copy(w->stream, w->y, w->a, (size_t)w->n);
    return 0;
}

/* Seconds of one, over TIMES after two that are not counted; 0: it failed. */
static double seconds_of(const work *w, int (*what)(const work *)) {
    enum { TIMES = 8 };
    slc_event from = NULL, to = NULL;
    double seconds = 0;
    int rc = slc_event_open(&from) || slc_event_open(&to);
    for (int i = -2; i < TIMES && rc == 0; i++) {
        if (i == 0)
            slc_event_record(from, w->stream);
        rc = what(w);
    }
    if (rc == 0) {
        slc_event_record(to, w->stream);
        seconds = slc_event_seconds(from, to) / TIMES;
    }
    slc_event_close(from), slc_event_close(to);
    return seconds;
}

static double measure(work *w, size_t bytes, int (*what)(const work *)) {
    double seconds = 0;
    w->a = slc_alloc(bytes), w->b = slc_alloc(bytes), w->y = slc_alloc(bytes);
    if (w->a && w->b && w->y && slc_stream_open(&w->stream) == 0 && slc_blas_open(&w->blas) == 0) {
        /* 0x3c3c3c3c is a number in either precision, and not 0: zeros are faster than what training multiplies. */
        slc_fill(w->stream, w->a, 0x3c, bytes), slc_fill(w->stream, w->b, 0x3c, bytes);
        seconds = seconds_of(w, what);
    }
    slc_blas_close(w->blas);
    slc_stream_close(w->stream);
    slc_free(w->a), slc_free(w->b), slc_free(w->y);
    return seconds;
}

double slc_measured_gflops(bool bf16) {
    static double known[2];
    int64_t n = bf16 ? 8192 : 4096;
    if (known[bf16] == 0) {
        work w = {.n = n, .bf16 = bf16};
        double seconds = measure(&w, (size_t)(n * n) * (bf16 ? 2 : 4), multiply);
        known[bf16] = seconds > 0 ? 2.0 * (double)n * (double)n * (double)n / seconds / 1e9 : 0;
    }
    return known[bf16];
}

double slc_measured_bandwidth(void) {
    static double known;
    if (known == 0) {
        work w = {.n = (int64_t)1 << 30};
        double seconds = measure(&w, (size_t)w.n, copy);
        known = seconds > 0 ? 2.0 * (double)w.n / seconds / 1e9 : 0;
    }
    return known;
}
