#include "formats/options.h"

bool sl_rotation_folds(const sl_config *c) {
    return sl_norm_traits[c->model_norm] & SL_NORM_ROTATES && c->model_norm_place == SL_PLACE_PRE &&
           !c->norm_preaffine && !c->model_sink_nullify && sl_config_clip(c) == 0 && !c->model_tie_embeddings &&
           c->model_attention_bias != SL_ATTENTION_BIAS_ALL && !c->model_ffn_bias &&
           c->model_learned_positions == 0 && c->model_block != SL_BLOCK_PARALLEL_SHARED &&
           c->model_anchors != SL_ANCHORS_EXTERNAL && c->model_residual == SL_RESIDUAL_PLAIN &&
           !sl_config_shifts(c);
}
