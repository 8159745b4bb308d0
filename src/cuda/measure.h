/* What the GPU that is used can do, measured once: the rate of a large product, and of copying within its memory. */
#ifndef SL_CUDA_MEASURE_H
#define SL_CUDA_MEASURE_H

#include <stdbool.h>

/* GFLOP/s of 8192 x 8192 x 8192 in bf16, or of 4096 x 4096 x 4096 in fp32, as training multiplies them; 0 where it
 * cannot be measured. */
double slc_measured_gflops(bool bf16);
/* GB/s of copying 1 GiB to another place, bytes read and written. */
double slc_measured_bandwidth(void);

#endif
