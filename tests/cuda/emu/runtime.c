/* The runtime of the emulation: device memory is memory, and what is enqueued is done at once. Graphs are not there: a
 * step is enqueued anew each time. */
#include "base/clock.h"
#include "base/err.h"
#include "cuda/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int slc_devices(void) { return 1; }

int slc_device(int i, slc_device_info *info) {
    (void)i;
    *info = (slc_device_info){.name = "emulated", .major = 8, .sms = 4, .total = (size_t)1 << 34,
                              .free = (size_t)1 << 34, .driver = 13000, .runtime = 13000};
    return 0;
}
int slc_device_use(int i) { return i == 0 ? 0 : sl_fail("the emulation has one device"); }

/* A block has its size in front of it, and around it bytes that nobody may change. What is in it is not zero: nobody
 * counts on that. */
enum { AROUND = 256, GUARD = 0xa5 };

void *slc_alloc(size_t bytes) {
    char *p = aligned_alloc(AROUND, (bytes + 3 * AROUND - 1) / AROUND * AROUND);
    if (!p) {
        sl_fail("the emulation is out of memory");
        return NULL;
    }
    memset(p, GUARD, AROUND);
    memcpy(p, &bytes, sizeof bytes);
    memset(p + AROUND, 0xff, bytes);
    memset(p + AROUND + bytes, GUARD, AROUND);
    return p + AROUND;
}

static void check(const unsigned char *p, size_t n, const char *where, size_t bytes) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != GUARD) {
            fprintf(stderr, "emulation: a kernel has written %s a block of %zu bytes, at byte %zu there\n", where,
                    bytes, i);
            abort();
        }
}

void slc_free(void *p) {
    size_t bytes;
    if (!p)
        return;
    char *block = (char *)p - AROUND;
    memcpy(&bytes, block, sizeof bytes);
    check((unsigned char *)block + sizeof bytes, AROUND - sizeof bytes, "before", bytes);
    check((unsigned char *)p + bytes, AROUND, "behind", bytes);
    free(block);
}
void *slc_alloc_host(size_t bytes) { return slc_alloc(bytes); }
void slc_free_host(void *p) { slc_free(p); }

int slc_put(void *device, const void *host, size_t bytes) {
    memcpy(device, host, bytes);
    return 0;
}
int slc_get(void *host, const void *device, size_t bytes) { return slc_put(host, device, bytes); }
/* SINKLAB_EMU_LOST in the environment: the device is gone. */
int slc_sync(slc_stream s) {
    (void)s;
    return getenv("SINKLAB_EMU_LOST") ? sl_fail("on the GPU: unspecified launch failure") : 0;
}
void slc_put_async(slc_stream s, void *device, const void *host, size_t bytes) {
    (void)s;
    memcpy(device, host, bytes);
}
void slc_get_async(slc_stream s, void *host, const void *device, size_t bytes) {
    slc_put_async(s, host, device, bytes);
}
void slc_copy(slc_stream s, void *to, const void *from, size_t bytes) { slc_put_async(s, to, from, bytes); }
void slc_fill(slc_stream s, void *device, int byte, size_t bytes) {
    (void)s;
    memset(device, byte, bytes);
}
void slc_zero(slc_stream s, void *device, size_t bytes) { slc_fill(s, device, 0, bytes); }
int slc_check(const char *what) {
    (void)what;
    return 0;
}

int slc_stream_open(slc_stream *s) {
    *s = NULL;
    return 0;
}
void slc_stream_close(slc_stream s) { (void)s; }

int slc_capture_begin(slc_stream s) {
    (void)s;
    return 1; /* nothing is recorded */
}
int slc_capture_end(slc_stream s, slc_graph *g) {
    (void)s;
    *g = NULL;
    return 0;
}
int slc_graph_run(slc_graph g, slc_stream s) {
    (void)g, (void)s;
    return sl_fail("the emulation records nothing");
}
void slc_graph_free(slc_graph g) { (void)g; }

int slc_event_open(slc_event *e) {
    return (*e = calloc(1, sizeof(double))) ? 0 : sl_fail("out of memory");
}
void slc_event_close(slc_event e) { free(e); }
void slc_event_record(slc_event e, slc_stream s) {
    (void)s;
    *(double *)e = sl_now();
}
double slc_event_seconds(slc_event from, slc_event to) { return *(double *)to - *(double *)from; }
