/* Randomised rotations (QuaRot, arXiv 2404.00456): R x = (H_p (x) C_m) D x for n = p m channels, p the largest power
 * of two that divides n: D random signs, H Hadamard's matrix / sqrt(p), C the Hartley matrix (cos + sin)(2 pi i j /
 * m) / sqrt(m) where no Hadamard matrix of that size is at hand. R is orthogonal, and so is its inverse D (H (x) C). */
#ifndef SL_OPS_QUANT_ROTATE_H
#define SL_OPS_QUANT_ROTATE_H

#include "program/program.h"

typedef struct sl_rotation {
    sl_scope scope;
    int64_t n, power, odd; /* n = power * odd */
    double *hartley;       /* [odd, odd], symmetric */
    int8_t *sign;          /* [n] */
} sl_rotation;

/* Signs are a function of seed and of the name of the place. NULL with a message. */
sl_rotation *sl_rotation_new(uint64_t seed, sl_scope scope, int64_t n);
void sl_rotation_free(sl_rotation *r);

/* In place; work: n values of scratch. */
void sl_rotate(const sl_rotation *r, double *x, double *work);
void sl_rotate_back(const sl_rotation *r, double *x, double *work);
/* y = R x in double, rounded once; y may be x. scratch: 2n doubles. */
void sl_rotate_row(const sl_rotation *r, const float *x, float *y, double *scratch);
void sl_rotate_row_back(const sl_rotation *r, const float *x, float *y, double *scratch);

/* What an operation of sl_build_rotate() does; NULL of any other. */
const sl_rotation *sl_rotation_of(const sl_op *op);
/* Appends R x, x [rows, dim] fp32. The signs have the name of the place. */
sl_buf sl_build_rotate(sl_program *b, sl_scope scope, sl_buf x, int64_t dim);

#endif
