/* Small models of every kind that the engine can build, and random parameters for them. */
#ifndef REF_VARIANTS_H
#define REF_VARIANTS_H

#include "config/config.h"
#include "program/params.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    char name[128];
    sl_config config;
    int32_t vocab;
    int64_t batch, seq;
} ref_variant;

/* Variant i = 0, 1, ...: first one without feed-forward and position embedding, then the product of
 * feed-forward x QK-norm x grouped-query attention x tied head with the first norm of the table, then the other norms
 * with four of those combinations each, then norms with options of their own, with one each, then every kind of
 * attention without and with a window, and every gate. False past the last. A few thousand parameters each. */
bool ref_variant_tiny(int i, ref_variant *v);
/* The same norms (of the special ones every other) at a size at which sums, rows and windows cross the blocks of the
 * engine (384 and 64), each of the table with all other options on and off, the feed-forward kinds in turn; first of
 * all one with a wide vocabulary. */
bool ref_variant_middle(int i, ref_variant *v);

/* Mixtures of experts: every router, balance, number of experts a token, shared experts, capacity and z-loss, each
 * placement of the norms, clipping; first tiny ones, then two that cross the engine's blocks. */
bool ref_variant_moe(int i, ref_variant *v);

/* Options of models that were trained elsewhere, each and in the combinations that architectures have (GPT-2, GPT-NeoX,
 * OLMo 2): first tiny ones, then the same at the middle size. */
bool ref_variant_elsewhere(int i, ref_variant *v);

/* What reads across layers, likewise: anchors of each kind, with every kind of coefficients; attention over depth, with
 * every kind of sources and each norm placement that it allows. */
bool ref_variant_across(int i, ref_variant *v);

/* Recurrent mixers with their options, first beside attention, then alone: tiny ones, then windows that cross their
 * chunks, with keys of every width that a device has kernels for. */
bool ref_variant_mixer(int i, ref_variant *v);

/* Every element random and far from its start: matrices 1.2 N(0, 1)/sqrt(columns), embeddings 0.5
 * N(0, 1), vectors that start at 1 or so 1 + 0.3 N(0, 1), those that start at 0 0.3 N(0, 1). A function of seed and
 * the tensor's name. */
void ref_randomise(sl_params *p, uint64_t seed);
void ref_random_tokens(int64_t n, int32_t vocab, uint64_t seed, int32_t *token);

#endif
