/* The CUDA runtime, as far as the engine uses it: memory, streams, graphs, events, what devices there are. The runtime
 * is linked into the binary and finds the driver by itself when it is first called, so a machine without one is told
 * from slc_devices() alone. Functions return 0, or -1 with a message (base/err.h) that names the device's error. */
#ifndef SL_CUDA_RUNTIME_H
#define SL_CUDA_RUNTIME_H

#include "cuda/product.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char name[128];
    int major, minor; /* compute capability */
    int sms;          /* multiprocessors */
    size_t total, free;           /* bytes of memory */
    int driver, runtime;          /* versions, 1000 * major + 10 * minor; driver: the CUDA version that it supports */
    double bandwidth; /* bytes a second of its memory by its clock and width; 0: not told */
} slc_device_info;

/* How many devices can be used; -1 with a message that says what is missing (no driver, one that is too old, no
 * device). */
int slc_devices(void);
int slc_device(int i, slc_device_info *info);
/* Work of this thread goes there. */
int slc_device_use(int i);

/* Device memory, 256-byte aligned; NULL with a message ("... use a smaller train.batch" is the caller's). */
void *slc_alloc(size_t bytes);
void slc_free(void *p); /* of NULL: nothing */
/* Page-locked host memory, for transfers that nobody waits for. */
void *slc_alloc_host(size_t bytes);
void slc_free_host(void *p);
/* They wait. */
int slc_put(void *device, const void *host, size_t bytes);
int slc_get(void *host, const void *device, size_t bytes);
int slc_sync(slc_stream s); /* NULL: the default one. Tells of failed kernels too */

/* Enqueued; nobody waits. host: page-locked. Errors are told by slc_check() or slc_sync(). */
void slc_put_async(slc_stream s, void *device, const void *host, size_t bytes);
void slc_get_async(slc_stream s, void *host, const void *device, size_t bytes);
void slc_fill(slc_stream s, void *device, int byte, size_t bytes);
void slc_zero(slc_stream s, void *device, size_t bytes);
void slc_copy(slc_stream s, void *to, const void *from, size_t bytes); /* both on the device */
/* Of launches so far; `what` begins the message. */
int slc_check(const char *what);

int slc_stream_open(slc_stream *s);
void slc_stream_close(slc_stream s);

/* What is enqueued between begin and end is not run, but recorded; run enqueues all of it. */
typedef void *slc_graph;
/* 1: this runtime records nothing; enqueue it anew each time. */
int slc_capture_begin(slc_stream s);
int slc_capture_end(slc_stream s, slc_graph *g); /* after a failure in between: call it all the same, *g is NULL */
int slc_graph_run(slc_graph g, slc_stream s);
void slc_graph_free(slc_graph g); /* of NULL: nothing */

typedef void *slc_event;
int slc_event_open(slc_event *e);
void slc_event_close(slc_event e);
void slc_event_record(slc_event e, slc_stream s);
/* Waits for both; seconds. */
double slc_event_seconds(slc_event from, slc_event to);

#ifdef __cplusplus
}
#endif
#endif
