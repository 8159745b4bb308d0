/* What a family is to the files of src/families: how its configuration is read, and where its tensors are. */
#ifndef SL_FAMILIES_KIND_H
#define SL_FAMILIES_KIND_H

#include "config/config.h"
#include "io/gguf.h"

#include <jansson.h>

/* ---- config.json */
typedef struct {
    const json_t *v;
    const char *name; /* of the file, for messages */
} sl_hf;

const json_t *sl_hf_get(const sl_hf *s, const char *key); /* NULL: absent or null */
/* Each fails with the file and the key. null is as absent. */
int sl_hf_whole(const sl_hf *s, const char *key, int64_t fallback, int64_t *v); /* fallback < 0: it must be there */
int sl_hf_real(const sl_hf *s, const char *key, double fallback, double *v);
int sl_hf_bool(const sl_hf *s, const char *key, bool fallback, bool *v);
/* The keys of a list that ends with NULL must be absent, null, false or 0: what they turn on is not computed here. */
int sl_hf_off(const sl_hf *s, const char *const *keys);
/* Those of this list must be absent, null or true. */
int sl_hf_on(const sl_hf *s, const char *const *keys);
/* Layers, widths, heads, norm epsilon (rms_norm_eps), context, tied embeddings (`tied` where it is not said). */
int sl_hf_sizes(const sl_hf *s, bool tied, sl_config *c);
/* The feed-forward, gated or not, that hidden_act, or another key of its kind, names; `fallback` where it is absent. */
int sl_hf_ffn(const sl_hf *s, const char *key, const char *fallback, bool gated, sl_config *c);
/* The same by the name of transformers; `where` begins the message. */
int sl_ffn_named(const char *where, const char *act, bool gated, sl_config *c);
/* LayerNorm with a bias, and biases on every linear layer of a block. */
void sl_set_layernorm(sl_config *c);
/* attention_bias, which is one on all four projections, and mlp_bias. */
int sl_hf_bias(const sl_hf *s, sl_config *c);
/* layer_types, with sliding_window where one slides; behind sl_hf_sizes. Without the key nothing changes. */
int sl_hf_layer_types(const sl_hf *s, sl_config *c);
/* rope_parameters of transformers 5, rope_theta and rope_scaling of 4. The base is c's own where the file does not say
 * it. Behind the widths. */
int sl_hf_rope(const sl_hf *s, sl_config *c);
/* The same where only part of a head may be turned, `share` if the file does not say. */
int sl_hf_rope_part(const sl_hf *s, double share, sl_config *c);
/* The same of one such object (NULL: none), whose base is `base`, and the share of a head that it turns `share`, where
 * it does not say. */
int sl_hf_rope_object(const sl_hf *s, const json_t *v, double base, double share, sl_config *c);

/* The kinds of all layers, of[layers], as the shortest list that gives them when it is repeated. `name`: of the file,
 * for the message. */
int sl_list_of_layers(const char *name, const uint8_t *of, int64_t layers, sl_choice_list *list);

/* ---- keys of GGUF, under "<general.architecture>." */
typedef struct {
    const sl_gguf *f;
    const char *architecture;
} sl_gguf_keys;

int sl_keys_whole(const sl_gguf_keys *k, const char *key, int64_t fallback, int64_t *v); /* fallback as above */
int sl_keys_real(const sl_gguf_keys *k, const char *key, double fallback, double *v);
int sl_keys_bool(const sl_gguf_keys *k, const char *key, bool fallback, bool *v);
/* As sl_hf_sizes; an own output matrix, and biases, are known by their tensors. The norm's epsilon is LayerNorm's where
 * sl_set_layernorm stands before. Mixtures are errors unless sl_keys_experts does. */
int sl_keys_sizes(const sl_gguf_keys *k, sl_config *c);
/* Experts, those of a token, and their width, feed_forward_length where no key of its own says it. */
int sl_keys_experts(const sl_gguf_keys *k, sl_config *c);
/* Base and scaling, by keys and by the factors of rope_freqs.weight. */
int sl_keys_rope(const sl_gguf_keys *k, sl_config *c);
int sl_keys_rope_part(const sl_gguf_keys *k, sl_config *c); /* the same where only part of a head may be turned */
/* Keys that neither the two above read nor `more`, a list that ends with NULL (or NULL), are errors: what they change
 * could not be told. */
int sl_keys_check(const sl_gguf_keys *k, const char *const *more);

/* ---- tensors. Stems are names without what follows the last dot (weight, bias), * is a number; those of a rule begin
 * with the same number. A second one in ours is an expert's, in SL_PLACE_STACKED. A tensor of ours that no rule names
 * has its own name. Of several rules for one of ours that holds whose tensor the file has. */
enum {
    SL_PLACE_ADD_ONE = 1,       /* the file's is its distance from 1 */
    SL_PLACE_PAIRS = 2,         /* rows of a head: two of a rotation side by side, where ours stand half a head apart */
    SL_PLACE_TRANSPOSED = 4,    /* [in, out] */
    SL_PLACE_BY_HEAD = 8,       /* parts are those of each head, not of the whole */
    SL_PLACE_BEHIND_TWO = 16,   /* two rows that nothing reads stand before ours; alone */
    SL_PLACE_STACKED = 32,      /* the first dimension of the file's counts experts, of which ours is one */
    SL_PLACE_WHOLE = 64,        /* the rule has whole names, not stems */
    SL_PLACE_INTERLEAVED = 128, /* parts are every so many rows, not blocks of rows */
    SL_PLACE_MXFP4 = 256,       /* the file's name ends in _blocks: U8 [..., in / 32, 16], with U8 [..., in / 32] of
                                 * the same name but _scales (io/ggml_types.h) */
    SL_PLACE_BY_KEY_HEAD = 512, /* parts are those of each key head of Gated DeltaNet (sl_gdn_group) */
    SL_PLACE_CENTRED = 1024     /* the file's is its distance from 1, as ours with model.norm_opts.zero_centred */
};
typedef struct {
    const char *ours, *theirs; /* stems, or whole names */
    unsigned how;
    int part, parts; /* the file's holds so many of ours one under the other, this is which; 0, 0: it alone */
} sl_place;

typedef struct {
    int (*from_hf)(const sl_hf *s, sl_config *c);
    int (*from_gguf)(const sl_gguf_keys *k, sl_config *c); /* NULL where the row has no general.architecture */
    /* Lists end with zeros; NULL: none. In GGUF sl_gguf_places holds besides, behind these. */
    const sl_place *hf_places, *gguf_places;
    const char *const *ignored; /* names with *, of more tensors that hold nothing to read; ends with NULL; or NULL */
    const char *prefix;         /* of names in the file, which may lack it; NULL: none may */
    const char *quant_method;   /* of quantization_config, that it reads; NULL: none */
} sl_family;

extern const sl_place sl_gguf_places[];
extern const sl_place sl_gguf_fused_places[]; /* queries, keys and values of all heads in one, for gguf_places */

/* What others need of places.c: the tensor of the file that holds (part of) ours. */
enum { SL_PLACE_CHARS = 256 };
typedef struct {
    char name[SL_PLACE_CHARS];
    sl_place how;
    int expert; /* of SL_PLACE_STACKED */
} sl_found_place;
typedef struct {
    const sl_place *own, *shared; /* either may be NULL */
    bool identity;                /* what no rule tells of has our name */
} sl_places;
/* By the nth of the rules that tell of it, from 0 on. False: there are not so many, and its name is not ours. */
bool sl_places_find(const sl_places *places, const char *ours, int nth, sl_found_place *found);
/* Does a name fit a pattern with one *, which stands for any characters? */
bool sl_place_fits(const char *pattern, const char *name);

/* Queries and keys as Llama's GGUF files have them, SL_PLACE_PAIRS. */
extern const sl_place sl_llama_gguf_places[];

/* Rows of a part that belong to one key head, in a tensor of Qwen3-Next's that holds so many parts. */
int64_t sl_gdn_group(const sl_config *c, int part, int parts);

/* use_sliding_window and layer_types of the Qwens. */
int sl_qwen_windows(const sl_hf *s, sl_config *c);

/* Experts of a token and their width, where the file does not say them as given (< 0: it must); weights of the chosen
 * ones that are scaled otherwise than ours are an error. */
int sl_qwen_experts(const sl_hf *s, int64_t top, int64_t width, bool scaled, sl_config *c);

/* What the Gemmas share, all but the rotary embedding of config.json; every `pattern`-th layer sees all where the file
 * does not say. The scale of scores, which GGUF files do not say, goes in a model of `largest` layers by dim / heads,
 * in all others by the width of a head. */
int sl_gemma_from_hf(const sl_hf *s, int64_t pattern, sl_config *c);
int sl_gemma_from_gguf(const sl_gguf_keys *k, int64_t pattern, int64_t largest, sl_config *c);
extern const sl_place sl_gemma_hf_places[], sl_gemma_gguf_places[];

#define FAMILY(name, ...) extern const sl_family sl_family_##name;
#include "tables/family.inc"
#undef FAMILY

#endif
