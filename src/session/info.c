/* What this machine and this build offer. */
#include "program/device.h"
#include "simd/kernels.h"

const char *sl_tier(void) { return sl_kernels_select(SL_ISA_AUTO)->tier; }

const char *sl_cuda(void) {
    const sl_device *d;
    sl_config c;
    sl_config_defaults(&c);
    c.device = SL_DEVICE_CUDA;
    return sl_device_of(&c, &d) ? NULL : d->name();
}
