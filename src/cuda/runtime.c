#include "cuda/runtime.h"

#include "base/err.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(const char *what, cudaError_t e) { return sl_fail("%s: %s", what, cudaGetErrorString(e)); }
static int told(const char *what, cudaError_t e) { return e == cudaSuccess ? 0 : failed(what, e); }

int slc_devices(void) {
    int n = 0, driver = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        return sl_fail("there is no NVIDIA driver on this machine; device: cpu needs none");
    if (e == cudaErrorInsufficientDriver)
        return sl_fail("the NVIDIA driver supports CUDA %d.%d and this binary was built with %d.%d; take a newer "
                       "driver, or build with an older toolkit",
                       driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (e != cudaSuccess && e != cudaErrorNoDevice)
        return failed("looking for a GPU", e);
    return n > 0 ? n : sl_fail("the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES is \"%s\")",
                               getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "");
}

int slc_device(int i, slc_device_info *info) {
    struct cudaDeviceProp p;
    *info = (slc_device_info){0};
    if (told("asking for a GPU's properties", cudaGetDeviceProperties(&p, i)))
        return -1;
    snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, p.name);
    info->major = p.major, info->minor = p.minor, info->sms = p.multiProcessorCount;
    int khz = 0, bits = 0;
    cudaDeviceGetAttribute(&khz, cudaDevAttrMemoryClockRate, i);
    cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, i);
    info->bandwidth = 2.0 * 1e3 * khz * bits / 8;
    cudaDriverGetVersion(&info->driver);
    cudaRuntimeGetVersion(&info->runtime);
    if (slc_device_use(i))
        return -1;
    return told("asking for a GPU's memory", cudaMemGetInfo(&info->free, &info->total));
}

int slc_device_use(int i) { return told("choosing a GPU", cudaSetDevice(i)); }

void *slc_alloc(size_t bytes) {
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e == cudaSuccess)
        return p;
    cudaGetLastError(); /* it is told here, and not once more by slc_check() */
    size_t unused = 0, total = 0;
    if (e == cudaErrorMemoryAllocation && cudaMemGetInfo(&unused, &total) == cudaSuccess)
        sl_fail("the GPU has no room for %.2f GiB more: %.2f of %.2f GiB are free", (double)bytes / (1 << 30),
                (double)unused / (1 << 30), (double)total / (1 << 30));
    else
        failed("allocating on the GPU", e);
    return NULL;
}

void slc_free(void *p) { cudaFree(p); }

void *slc_alloc_host(size_t bytes) {
    void *p = NULL;
    return told("allocating page-locked memory", cudaMallocHost(&p, bytes ? bytes : 1)) ? NULL : p;
}

void slc_free_host(void *p) { cudaFreeHost(p); }

int slc_put(void *device, const void *host, size_t bytes) {
    cudaError_t e = cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice);
    /* Small copies may still be under way, and streams of ours do not wait for them. */
    return told("copying to the GPU", e == cudaSuccess ? cudaStreamSynchronize(NULL) : e);
}
int slc_get(void *host, const void *device, size_t bytes) {
    return told("copying from the GPU", cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}
int slc_sync(slc_stream s) {
    cudaError_t e = cudaStreamSynchronize(s);
    return told("on the GPU", e == cudaSuccess ? cudaGetLastError() : e);
}

void slc_put_async(slc_stream s, void *device, const void *host, size_t bytes) {
    cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, s);
}
void slc_get_async(slc_stream s, void *host, const void *device, size_t bytes) {
    cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, s);
}
void slc_fill(slc_stream s, void *device, int byte, size_t bytes) { cudaMemsetAsync(device, byte, bytes, s); }
void slc_zero(slc_stream s, void *device, size_t bytes) { slc_fill(s, device, 0, bytes); }
void slc_copy(slc_stream s, void *to, const void *from, size_t bytes) {
    cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, s);
}
int slc_check(const char *what) { return told(what, cudaGetLastError()); }

int slc_stream_open(slc_stream *s) {
    return told("opening a stream on the GPU", cudaStreamCreateWithFlags((cudaStream_t *)s, cudaStreamNonBlocking));
}
void slc_stream_close(slc_stream s) {
    if (s)
        cudaStreamDestroy(s);
}

int slc_capture_begin(slc_stream s) {
    return told("recording a step", cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
}

int slc_capture_end(slc_stream s, slc_graph *g) {
    cudaGraph_t recorded = NULL;
    cudaGraphExec_t run = NULL;
    cudaError_t e = cudaStreamEndCapture(s, &recorded);
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&run, recorded, 0);
    if (recorded)
        cudaGraphDestroy(recorded);
    *g = run;
    return told("recording a step", e);
}

int slc_graph_run(slc_graph g, slc_stream s) { return told("on the GPU", cudaGraphLaunch(g, s)); }
void slc_graph_free(slc_graph g) {
    if (g)
        cudaGraphExecDestroy(g);
}

int slc_event_open(slc_event *e) { return told("opening an event", cudaEventCreate((cudaEvent_t *)e)); }
void slc_event_close(slc_event e) {
    if (e)
        cudaEventDestroy(e);
}
void slc_event_record(slc_event e, slc_stream s) { cudaEventRecord(e, s); }
double slc_event_seconds(slc_event from, slc_event to) {
    float ms = 0;
    cudaEventSynchronize(to);
    cudaEventElapsedTime(&ms, from, to);
    return ms / 1e3;
}
