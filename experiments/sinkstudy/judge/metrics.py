"""The metrics of a run: one table of names with meaning, unit and which way is better.

A run's outcome is a flat dict name -> number. Studies may only name metrics of this table; claims, reports and the page
about single runs take their words from it. Braces in a name stand for each of their words. Python's own library only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

LAMBDA = "\N{GREEK SMALL LETTER LAMDA}"


@dataclass(frozen=True)
class Metric:
    name: str
    label: str
    meaning: str = ""
    unit: str = ""
    better: str = "none"  # lower, higher or none
    binary: bool = False  # 0 or 1 for each run: shares of runs are compared, not means

    def long(self) -> str:
        """Label with the unit, as axes have it."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


# Of the trained model and its training.
TRAINING = (
    Metric("val_loss", "validation loss", "", "nats per token", "lower"),
    Metric("val_loss_trigger", "validation loss at triggers", "synthetic tasks: where attention has something to do",
           "nats per token", "lower"),
    Metric("val_loss_other", "validation loss elsewhere", "synthetic tasks: away from triggers", "nats per token",
           "lower"),
    Metric("bits_per_byte", "bits per byte", "validation loss per byte of text", "bits", "lower"),
    Metric("params", "parameters"),
    Metric("baseline_params", "parameters of the baseline", "the same sizes with RMSNorm, softmax attention, SwiGLU, "
                                                            "no gates"),
    Metric("ffn", "feed-forward width"),
    Metric("tokens", "training tokens"),
    Metric("tokens_per_s", "tokens/s", "mean over the run", "", "higher"),
    Metric("seconds", "seconds", "of training", "s", "lower"),
    Metric("diverged", "diverged", "1 where the guard stopped the run, else 0", "", "lower", binary=True),
    Metric("spikes", "loss spikes", "steps of training whose loss stands more than 7 standard deviations above the "
           "mean of the 100 before", "per mille", "lower"),
)
# Of a probe: of the finished model, as peak.NAME the largest over training, as INTERVENTION.NAME of the changed model.
PROBE = (
    Metric("max", "max |h|", "largest value of the residual stream, all layers and tokens"),
    Metric("max_no_token0", "max |h|, no token 0", "the same without the first token of each window"),
    Metric("m2", "M2", "residual sink: largest over median channel of mean |h|, token 0 left out, largest layer; 1 is "
                       "flat"),
    Metric("m2_layer", "layer of M2", "the layer at which M2 is taken"),
    Metric("m2_dim", "channel of M2", "the channel that M2 is of"),
    Metric("m2_embeddings", "M2 of the embeddings", "the same of the stream before the first block"),
    Metric("m2_blocks", "M2 between blocks", "the same of the streams that the second and later blocks read, largest"),
    Metric("m2_last", "M2 behind the last block", "the same of the stream that the final norm alone reads"),
    *(Metric(f"{figure}_{place}", f"{label} {where}", "", "", "none")
      for figure, label in (("max", "max |h|"), ("kurtosis_h", "kurtosis-H"))
      for place, where in (("embeddings", "of the embeddings"), ("blocks", "between blocks"),
                           ("last", "behind the last block"))),
    *(Metric(f"{figure}_mid", f"{label} in mid-block", "of the streams between the halves of blocks, which their "
             "feed-forwards read, largest; nothing where the halves are parallel")
      for figure, label in (("max", "max |h|"), ("m2", "M2"), ("kurtosis_h", "kurtosis-H"))),
    Metric("m2_share", "share of M2's channel", "share of the tokens whose largest |h| is the channel of M2, at its "
           "layer, token 0 left out: 1 is a channel that leads at every token"),
    Metric("top1_over_uniform", "top-1\N{PER MILLE SIGN} over uniform", "top1_permille over what as many channels have "
           "if all are alike: of 128 or 576 channels it is one, of 2048 three"),
    Metric("top1_permille", "top-1\N{PER MILLE SIGN}", "share of the largest thousandth of the channels (rounded up) "
           "in mean |h|", "per mille"),
    Metric("kurtosis_h", "kurtosis-H", "unevenness of the channels' mean squares, from 1 (even) to d (one channel), "
           "largest layer"),
    Metric("kurtosis_h_no_token0", "kurtosis-H, no token 0", "the same without the first token of each window"),
    Metric("lambda_min", f"{LAMBDA} min", "smallest |norm weight| of the block norms"),
    Metric("lambda_at_sink", f"mean {LAMBDA} at the sink", "mean |norm weight| of the block norms at the channel of "
           "M2"),
    Metric("lambda_sink", f"{LAMBDA} at the sink", "smallest |norm weight| of the block norms at the channel of M2"),
    Metric("lambda_other", f"{LAMBDA} at a random channel", "smallest |norm weight| of the block norms at a channel, "
           "mean over all but M2's: of so many weights some are near 0 by chance"),
    Metric("median_channel", "median channel", "mean |h| of the median channel at the layer of M2, token 0 left out"),
    Metric("att0", "attention to token 0", "mean over layers, heads and all queries but the first"),
    Metric("att0_over_uniform", "attention to token 0 over uniform",
           "att0 over the mean of 1/(q+1), which even attention "
           "gives"),
    Metric("att0_trigger", "attention to token 0 at triggers", "synthetic tasks"),
    Metric("att0_other", "attention to token 0 elsewhere", "synthetic tasks: away from triggers"),
    Metric("sink_rate", "Sink rate", "share of heads whose mean attention to token 0 exceeds .3"),
    Metric("attention_entropy", "attention entropy", "mean over heads and queries", "nats"),
    Metric("value_norm_ratio", "value-norm ratio", "value norm of token 0 over the other tokens'"),
    Metric("token0_norm_ratio", "token-0 norm ratio", "norm of token 0 in the stream over the other tokens', largest "
                                                      "layer"),
    Metric("gate_mean", "mean gate", "of the norms' gates"),
    Metric("gate_std", "sd of gates", "of the norms' gates, over elements"),
)
# Places, and what is made of the final probe only.
NO_PEAK = ("m2_layer", "m2_dim", "lambda_sink", "lambda_other", "median_channel", "top1_over_uniform",
           "att0_over_uniform", *(f"{figure}_{place}" for figure in ("max", "m2", "kurtosis_h")
                                  for place in ("embeddings", "blocks", "last")))
# Of `sinklab probe --measures`: means over layers; with .max the largest layer's.
MEASURES = (
    Metric("contribution.head", "contribution of token 0, heads",
           "share of a head's output that comes through token 0"),
    Metric("contribution.projected", "contribution of token 0",
           "share of the attention output that comes through token 0, "
           "behind the output projection"),
    Metric("norms.{attn,ffn}_in", "sink share of the {} norm's input",
           "norm of the sink dimensions over the whole norm, "
           "token 0 left out"),
    Metric("norms.{attn,ffn}_out", "sink share of the {} norm's output",
           "the same behind the norm: what is left of the "
           "sink for the block"),
    Metric("dynamics.strength", "strength of sink dimensions", "mean |h| over the median channel's"),
    Metric("dynamics.mean", "mean of sink dimensions", "mean value, with its sign"),
    Metric("dynamics.constant_share", "constant share of sink dimensions",
           "mean squared over mean of squares: 1 is a bias"),
    Metric("dynamics.same_sign", "same sign of sink dimensions", "share of values with the commoner sign"),
    Metric("dynamics.across_sequences", "sink dimensions across sequences",
           "correlation between windows: 1 is a function of "
           "the position, 0 of the text"),
    Metric("dynamics.across_positions", "sink dimensions across positions",
           "correlation between positions: 1 is a function "
           "of the window, 0 of the token"),
    Metric("dynamics.agreement", "agreement of sink dimensions across sequences",
           "cosine between windows, the mean not taken out: 1 where each has the same values, a constant's included"),
    Metric("singular.{down,block,chain}.sigma", "leading singular value, {}", "of the linear map"),
    Metric("singular.{down,block,chain}.second", "second singular value, {}", "of the linear map"),
    Metric("singular.{down,block,chain}.cos_state", "token of greatest norm against singular direction, {}",
           "|cosine| with the stream of that token"),
    Metric("singular.{down,block,chain}.cos_update", "update of that token against singular direction, {}",
           "|cosine| with what the block added"),
    *(Metric(f"outliers.{{norm_attn,norm_ffn,q,k,v,attention_output,down_input}}.{figure}", f"{label}, {{}}", meaning)
      for figure, label, meaning in (
          ("max", "largest value", "max |x|"),
          ("max_no_token0", "largest value, no token 0", "max |x| without the first token of each window"),
          ("max_over_median", "largest over median value", "max |x| over the median |x|; massive: about 1000"),
          ("kurtosis", "kurtosis", "4th standardised moment of each window's values; 3 is normal"),
          ("kurtosis_h", "kurtosis-H", "unevenness of the channels' mean squares"),
          ("channel_max_over_median", "largest over median channel", "of the channels' RMS"),
          ("channels_over_6", "channels over 6 times the median", "share of the channels, by RMS"))),
    Metric("gates.elements", "gate against |activation|", "correlation over elements; below 0: gates are low where "
           "activations are large"),
    Metric("gates.channels", "gate against |activation|, channels", "the same of the channels' means"),
    *(Metric(f"depth.{name}", label, meaning) for name, label, meaning in (
        ("{in,last}.max", "largest value, {}", "max |x| of what a half of a block reads, or of its newest source"),
        ("{in,last}.m2", "M2, {}", "of what a half of a block reads, or of its newest source"),
        ("{in,last}.kurtosis_h", "kurtosis-H, {}", "of what a half of a block reads, or of its newest source"),
        ("entropy", "entropy of depth weights", "nats"),
        ("top1", "largest depth weight", "of a token, mean"),
        ("null", "unused depth weight", "1 - sum, of a softmax1"),
        ("constant_share", "constant share of depth weights", "1: the same for every token"),
        ("weight_embedding", "depth weight of the embedding", "mean over tokens; mixtures of two sources or more"),
        ("weight_newest", "depth weight of the newest source", "mean over tokens"))),
    Metric("depth.null_evidence.token0", "unused attention of token 0", "1 - sum over keys, of a softmax1"),
    Metric("depth.null_evidence.others", "unused attention of other tokens", "1 - sum over keys, of a softmax1"),
    Metric("anchors.anchor.{q,k,v,gate}", "coefficient of the anchor, {}", "|.|, mean over tokens and columns"),
    Metric("anchors.own.{q,k,v,gate}", "coefficient of the layer's own, {}", "|.|, mean over tokens and columns"),
    Metric("anchors.sink_logit.all", "logit with token 0", "of later queries, scaled, before a softcap"),
    Metric("anchors.sink_logit.{anchor,own}", "logit with token 0, by {}", "what comes through that part of its key"),
    Metric("anchors.share", "share of the logit with token 0 through the anchor", "1: all of it; below 0: against it"),
    *(Metric(f"recurrence.{name}", label, meaning, unit) for name, label, meaning, unit in (
        ("{attention,state}.share0", "share of token 0, layers with {}", "of |A|, in the queries behind token 4", ""),
        ("{attention,state}.share_next", "share of tokens 1 to 4, layers with {}", "mean of the four", ""),
        ("att0", "share of token 0, heads with a state", "of |A|, in the queries behind token 4", ""),
        ("contribution", "contribution of token 0, heads with a state", "the same, each |A| times its |v|", ""),
        ("over_output", "token 0 over the output, heads with a state", "|A v| of token 0 by |o|", ""),
        ("half_life", "half-life of a state", "ln .5 over the mean log of the decay", "positions"),
        ("weight_token0", "write weight of token 0", "beta of delta rules, dt of Mamba-2", ""),
        ("weight", "write weight of other tokens", "beta of delta rules, dt of Mamba-2", ""),
        ("key_token0_ratio", "key norm of token 0, heads with a state", "by the other tokens', not normalised", ""),
        ("input_token0_ratio", "value norm of token 0, heads with a state", "by the other tokens'", ""),
        ("rms_token0", "output of heads with a state, token 0", "RMS before gate and norm", ""),
        ("rms", "output of heads with a state", "RMS before gate and norm, no token 0", ""),
        ("below_eps", "outputs below the eps of their norm", "share of rows of a head", ""),
        ("state_half", "state norm, middle", "|S| in the middle of a window", ""),
        ("state_end", "state norm, end", "|S| at the end of a window", ""),
        ("state_token0", "share of token 0 in the state", "norm of its part by |S|, at the end", ""),
        ("state_peak", "largest over RMS of a state", "max |S| by its RMS", ""),
        ("stable_rank", "stable rank of a state", "sum of squared singular values by the largest", ""),
        ("gate.token0", "own gate of mixers at token 0", "mean |g(z)|", ""),
        ("gate.mean", "own gate of mixers", "mean |g(z)|, no token 0", ""),
        ("gate.closed", "own gate of mixers, closed", "share of values below .05", ""),
        ("norm_in.max", "largest input of mixers' own norm", "max |x|", ""),
        ("norm_in.max_no_token0", "largest input of mixers' own norm, no token 0", "max |x|", ""),
        ("norm_in.m2", "M2 before mixers' own norm", "largest over median channel of mean |x|", ""),
        ("norm_in.kurtosis_h", "kurtosis-H before mixers' own norm", "unevenness of the channels' mean squares", ""),
        ("norm_in.weight_ratio", "own norm's weight at its largest channel", "by the median weight", ""),
        ("alignment.peaks_before", "spikes just before attention", "share of attention layers behind two others or "
         "more before which token 0 is largest (arXiv 2608.12149)", ""),
        ("alignment.spike", "token 0 before attention", "max |h| behind the layer before it", ""),
        ("alignment.between", "token 0 between attention layers", "max |h|, by the smaller spike around it", ""))),
)
# Of the study `pretrained`, over blocks of text.
PRETRAINED = (
    Metric("sink_channels_shared", "sink channels shared", "channels of 5 times the median one or more at the layer of "
           "M2: those that the block and the first one have in common, over those that either has"),
    Metric("lambda_sink_relative", f"relative {LAMBDA} at the sink", "|norm weight| at the channel of M2 over the "
           "norm's median one; median over the block norms"),
)
# An intervention's own; its probe figures and losses come from the tables above.
INTERVENED = (
    Metric("loss_change", "loss change", "validation loss with the intervention minus without", "nats per token",
           "lower"),
    Metric("in_context", "gain in context", "synthetic tasks: validation loss elsewhere minus at triggers, as where "
           "tokens come a second time", "nats per token", "higher"),
    # Of a study with cloze: true.
    Metric("accuracy", "accuracy", "share of the tokens that are the model's first choice", "", "higher"),
    Metric("cloze", "cloze", "share of whole words in the second half of their window of which each token is the first "
           "choice", "", "higher"),
)
# Of `sinklab quantize` with a scheme behind a transformation.
QUANTISED = (
    Metric("val_loss", "validation loss", "of the rounded model", "nats per token", "lower"),
    Metric("loss_change", "loss change", "rounded minus fp32, on the same windows", "nats per token", "lower"),
    Metric("bits_per_byte", "bits per byte", "validation loss per byte of text", "bits", "lower"),
    *(Metric(f"error_{tensor}", f"error of {label}", "norm of the rounding error over the norm; worst layer", "",
             "lower")
      for tensor, label in (("post_norm", "norm outputs"), ("attention_out", "attention output"),
                            ("down_in", "down-projection input"), ("weights", "weights"))),
)
LOSSES = ("val_loss", "val_loss_trigger", "val_loss_other", "bits_per_byte")
ONSET = Metric("onset.m2", "onset of the residual sink", "first probed step from which on M2 is 5 or more to the end; "
               "missing if it ends below", "steps")


def spelled_out(metric: Metric) -> Iterator[Metric]:
    """The metrics that a row stands for: one for each word of its braces."""
    braces = re.search(r"\{(.+)\}", metric.name)
    if not braces:
        yield metric
        return
    for word in braces[1].split(","):
        yield replace(metric, name=metric.name.replace(braces[0], word),
                      label=metric.label.replace("{}", word.replace("_", " ")))


def table() -> dict[str, Metric]:
    rows = [*TRAINING, *PROBE, *PRETRAINED, ONSET]
    rows += [replace(row, name=f"peak.{row.name}", label=f"peak {row.label}", better="none",
                     meaning=f"largest over training: {row.meaning}") for row in PROBE if row.name not in NO_PEAK]
    for measure in MEASURES:
        for row in spelled_out(measure):
            rows += [replace(row, meaning=f"{row.meaning}; mean over layers"),
                     replace(row, name=f"{row.name}.max", label=f"{row.label}, max",
                             meaning=f"{row.meaning}; largest layer")]
    return {row.name: row for row in rows}


TABLE = table()
CHANGED = {row.name: row for row in (*INTERVENED, *TRAINING, *PROBE)
           if row in INTERVENED or row in PROBE or row.name in LOSSES}


def quantised(study: Mapping[str, Any]) -> list[str]:
    """Prefixes of the metrics of a study's quantised models: quantize.SCHEME.TRANSFORMATION."""
    wanted = study.get("quantize") or {}
    return [f"quantize.{scheme}.{name}" for name in wanted.get("transformations") or {}
            for scheme in wanted.get("schemes") or ()]


def looks(study: Mapping[str, Any]) -> list[str]:
    """What a study looks at besides the model as it was trained: prefixes of metrics."""
    return [*(study.get("interventions") or {}), *quantised(study)]


def figures_of(look: str) -> dict[str, Metric]:
    return {row.name: row for row in QUANTISED} if look.startswith("quantize.") else CHANGED


def find(name: str, looks: Iterable[str] = ()) -> Metric | None:
    """The metric of this name, of the model or of one of the looks at it; None if there is none."""
    of, _, rest = name.rpartition(".")
    row = figures_of(of).get(rest) if of in looks else None
    return replace(row, name=name, label=f"{row.label}, {of.removeprefix('quantize.')}") if row else TABLE.get(name)


def known(name: str, looks: Iterable[str] = ()) -> bool:
    return find(name, looks) is not None


def nearest(name: str, looks: Iterable[str] = (), most: int = 3) -> list[str]:
    """Known names that look like this one, the likeliest first."""
    names = [*TABLE, *(f"{of}.{rest}" for of in looks for rest in figures_of(of))]
    return difflib.get_close_matches(name, names, n=most, cutoff=0.4)
