#include "cli/probe_measures.h"

#include "probe/probe.h"

#include <stdio.h>

/* ---- tables */

static void cell(int width, const json_t *x) {
    if (json_is_number(x))
        printf(" %*.4g", width, json_number_value(x));
    else
        printf(" %*s", width, "-");
}

static const json_t *at(const json_t *o, const char *key, const char *inner) {
    return json_object_get(json_object_get(o, key), inner);
}

static void print_contribution(const json_t *layer) {
    const json_t *head = json_object_get(layer, "head"), *x;
    size_t i;
    cell(10, json_object_get(layer, "projected"));
    json_array_foreach(head, i, x)
        cell(8, x);
    putchar('\n');
}

static void print_norms(const json_t *layer) {
    cell(8, at(layer, "attn", "in")), cell(8, at(layer, "attn", "out"));
    cell(8, at(layer, "ffn", "in")), cell(8, at(layer, "ffn", "out"));
    putchar('\n');
}

static void print_dynamics(const json_t *layer) {
    const json_t *dims = json_object_get(layer, "dims"), *x;
    size_t i;
    if (json_array_size(dims) == 0)
        puts("       -");
    json_array_foreach(dims, i, x) {
        if (i > 0)
            printf("     ");
        cell(7, json_object_get(x, "dim")), cell(8, json_object_get(x, "strength"));
        cell(9, json_object_get(x, "mean")), cell(8, json_object_get(x, "constant_share"));
        cell(8, json_object_get(x, "same_sign")), cell(9, json_object_get(x, "across_sequences"));
        cell(9, json_object_get(x, "across_positions"));
        putchar('\n');
    }
}

static void print_singular(const json_t *layer) {
    static const char *const maps[] = {"down", "block", "chain"};
    cell(5, at(layer, "token", "position"));
    cell(8, at(layer, "token", "norm"));
    for (size_t i = 0; i < 3; i++) {
        cell(9, at(layer, maps[i], "sigma")), cell(8, at(layer, maps[i], "second"));
        cell(7, at(layer, maps[i], "cos_state")), cell(7, at(layer, maps[i], "cos_update"));
    }
    putchar('\n');
}

static void print_outliers(const json_t *layer) {
    const char *name;
    const json_t *x;
    bool first = true;
    json_object_foreach((json_t *)(uintptr_t)layer, name, x) {
        if (!json_is_object(x))
            continue;
        printf("%s %-16s", first ? "" : "     ", name);
        first = false;
        cell(9, json_object_get(x, "max")), cell(9, json_object_get(x, "max_no_token0"));
        cell(8, json_object_get(x, "max_over_median")), cell(8, json_object_get(x, "kurtosis"));
        cell(8, json_object_get(x, "kurtosis_h")), cell(8, json_object_get(x, "channel_max_over_median"));
        cell(6, json_object_get(x, "channel")), cell(8, json_object_get(x, "channels_over_6"));
        putchar('\n');
    }
}

static void print_gates(const json_t *layer) {
    cell(9, at(layer, "attn", "elements")), cell(9, at(layer, "attn", "channels"));
    cell(9, at(layer, "ffn", "elements")), cell(9, at(layer, "ffn", "channels"));
    putchar('\n');
}

/* Null evidence, then a mixture a line: the half, itself and its newest source, its weights. */
static void print_depth(const json_t *layer) {
    static const char *const halves[] = {"attn", "ffn"};
    bool first = true;
    cell(8, at(layer, "null_evidence", "token0")), cell(8, at(layer, "null_evidence", "others"));
    for (int w = 0; w < 2; w++) {
        const json_t *x = json_object_get(layer, halves[w]), *weight = json_object_get(x, "weight");
        if (!json_is_object(x))
            continue;
        printf("%s %-4s", first ? "" : "                     ", halves[w]);
        first = false;
        cell(9, at(x, "in", "max")), cell(8, at(x, "in", "m2"));
        cell(9, at(x, "last", "max")), cell(8, at(x, "last", "m2"));
        cell(7, json_array_get(weight, 0)), cell(7, json_array_get(weight, json_array_size(weight) - 1));
        cell(7, json_object_get(x, "top1")), cell(8, json_object_get(x, "entropy"));
        cell(7, json_object_get(x, "constant_share"));
        putchar('\n');
    }
    if (first)
        puts(" -");
}

/* What is of the block, then a head a line. */
static void print_recurrence(const json_t *layer) {
    static const char *const figures[] = {"att0",       "contribution", "half_life", "weight_token0", "weight",
                                          "input_token0_ratio", "rms", "state_half", "state_end", "stable_rank"};
    const json_t *heads = json_object_get(layer, "head"), *share = json_object_get(layer, "share"), *h;
    size_t i;
    for (size_t j = 0; j < 5; j++)
        cell(8, json_array_get(share, j));
    cell(8, json_object_get(layer, "uniform")), cell(8, at(layer, "gate", "mean"));
    cell(8, at(layer, "norm_in", "m2")), cell(8, at(layer, "norm_in", "weight_ratio"));
    cell(8, at(layer, "alignment", "between"));
    putchar('\n');
    json_array_foreach(heads, i, h) {
        printf("%10zu", i);
        for (size_t f = 0; f < sizeof figures / sizeof *figures; f++)
            cell(9, json_object_get(h, figures[f]));
        putchar('\n');
    }
}

static void print_anchors(const json_t *layer) {
    static const char *const both[] = {"anchor", "own"}, *const parts[] = {"q", "k", "v", "gate"};
    for (int i = 0; i < 2; i++)
        for (int p = 0; p < 4; p++)
            cell(8, at(layer, both[i], parts[p]));
    cell(9, at(layer, "sink_logit", "all")), cell(9, at(layer, "sink_logit", "anchor"));
    cell(8, json_object_get(layer, "share"));
    putchar('\n');
}

static const struct {
    const char *head;
    void (*print)(const json_t *layer);
} tables[SL_MEASURES] = {
    [SL_MEASURE_CONTRIBUTION] = {"block  projected   heads ...", print_contribution},
    [SL_MEASURE_NORMS] = {"layer  attn in      out   ffn in      out", print_norms},
    [SL_MEASURE_DYNAMICS] = {"layer     dim strength      mean   const     sign sequences positions", print_dynamics},
    [SL_MEASURE_SINGULAR] = {"block   pos     norm | down:  s1       s2   state  update | block: s1       s2   state"
                             "  update | chain: s1       s2   state  update", print_singular},
    [SL_MEASURE_OUTLIERS] = {"layer class                  max     no t0  max/med kurtosis   kurt-H   ch/med channel"
                             "    > 6", print_outliers},
    [SL_MEASURE_DEPTH] = {"layer null t0    null half      max      m2 | newest      m2  embed. newest   top1 entropy"
                          "  const", print_depth},
    [SL_MEASURE_GATES] = {"layer  attn el.   attn ch.   ffn el.   ffn ch.", print_gates},
    [SL_MEASURE_RECURRENCE] = {"block    att0    att1    att2    att3    att4 uniform    gate norm m2  weight between\n"
                               "      head      att0  contrib. half-life write t0    write    |v| t0      rms    |S|/2"
                               "      |S|      rank",
                               print_recurrence},
    [SL_MEASURE_ANCHORS] = {"block anch. q       k       v    gate   own q       k       v    gate    logit  through"
                            "   share", print_anchors},
};

void sl_measures_print(const json_t *o) {
    for (int m = 0; m < SL_MEASURES; m++) {
        const json_t *layers = json_object_get(o, sl_measure_table[m].name), *layer;
        size_t i;
        if (!layers)
            continue;
        printf("\n%s: %s\n%s\n", sl_measure_table[m].name, sl_measure_table[m].help, tables[m].head);
        json_array_foreach(layers, i, layer) {
            printf("%5zu", i);
            tables[m].print(layer);
        }
    }
}
