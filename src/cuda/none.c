/* The devices of a build without CUDA: none. */
#include "base/err.h"
#include "program/device.h"

int sl_device_of(const sl_config *c, const sl_device **d) {
    *d = NULL;
    return c->device == SL_DEVICE_CUDA
               ? sl_fail("device: cuda needs a build with CUDA: install its toolkit (nvcc) and set up the build anew, "
                         "or take device: cpu")
               : 0;
}
