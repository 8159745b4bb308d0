"""Models: passes, what they leave, figures, text."""
from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._lib import Error, check, failed, ffi, lib, locked, owned, path_bytes, take_json
from .config import Config, Source, options
from .probe import Probe
from .tokenizer import Tokenizer

__all__ = ["Model", "Pass", "QKV", "Shape", "create", "open"]

Floats = npt.NDArray[np.float32]
Tokens = npt.ArrayLike
Bos = bool | int | str | None

_TAPS = 2  # SL_MODEL_TAPS


class Shape(NamedTuple):
    """Sizes of a model, and of the batch it is made for now."""

    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    batch: int
    seq: int


class QKV(NamedTuple):
    """Queries [batch, seq, heads, head_dim], keys and values [batch, seq, kv_heads, head_dim] of a block; scores are
    scale * q.k."""

    q: Floats
    k: Floats
    v: Floats
    scale: float


@dataclass(frozen=True)
class Pass:
    """What a pass lost: the mean in nats a token, and [batch, seq], 0 where no target was."""

    loss: float
    token_loss: Floats


def bos_text(bos: Bos) -> str | None:
    """For sl_open_options."""
    if bos is None or bos is True:
        return None
    return "none" if bos is False else str(bos)


def _array(p: Any, *shape: int) -> Floats:
    """A copy of floats of the model's, which its next pass may write over."""
    if p == ffi.NULL:
        raise failed()
    return np.frombuffer(ffi.buffer(p, 4 * math.prod(shape)), np.float32).reshape(shape).copy()


def _pointer(a: npt.NDArray[Any]) -> Any:
    return ffi.from_buffer("float[]" if a.dtype == np.float32 else "int32_t[]", a, require_writable=a.flags.writeable)


class Model:
    """A model to measure: `sinklab.open(PATH)` gives one.

    Passes take token arrays [batch, seq] (or [seq]) of any size. What a pass leaves behind is read with residual(),
    qkv(), attention(), norm_output() and norm_gate(): those are arrays of their own, [batch, seq, ...], which later
    passes do not change; before the first pass they raise.
    """

    def __init__(self, config: Config, vocab: int, path: str, batch: int, seq: int) -> None:
        self._config, self._vocab, self._path = config, vocab, path
        self._threads = int(lib.sl_threads())
        self._m = self._made(batch, seq)
        self._tokenizer: Tokenizer | None = None

    def _made(self, batch: int, seq: int) -> Any:
        return owned(lib.sl_model_create(self._config._c, self._vocab, batch, seq, _TAPS), lib.sl_model_free)

    # ---- what it is

    @property
    def path(self) -> str:
        """The folder or file that it was read from; "" of one that was made here."""
        return self._path

    @property
    def config(self) -> Config:
        return self._config

    @property
    def shape(self) -> Shape:
        s = lib.sl_model_shape(self._m)
        return Shape(*(int(getattr(s, name)) for name in Shape._fields))

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            with locked():
                self._tokenizer = Tokenizer._of(owned(lib.sl_dataset_open_tokenizer(self._config._c),
                                                      lib.sl_tokenizer_close))
        return self._tokenizer

    @property
    def bos(self) -> int | None:
        """The id that windows of texts begin with, None if with none."""
        return self.tokenizer.bos if self._config["data.bos"] else None

    def encode(self, text: str | bytes) -> npt.NDArray[np.int32]:
        """Tokens of a text with BOS in front, where this model's windows begin so."""
        tokens = self.tokenizer.encode(text)
        return tokens if self.bos is None else np.concatenate([np.array([self.bos], np.int32), tokens])

    def __repr__(self) -> str:
        s = self.shape
        return (f"<sinklab.Model {self._path or 'made here'}: {s.layers} layers of {s.dim}, {s.heads} heads, "
                f"{s.vocab} tokens>")

    # ---- passes

    def _tokens(self, tokens: Tokens, what: str = "tokens") -> npt.NDArray[np.int32]:
        a = np.asarray(tokens)
        if a.size == 0 or a.ndim not in (1, 2) or not np.issubdtype(a.dtype, np.integer):
            raise Error(f"{what}: expected whole numbers [batch, seq] or [seq], got {a.dtype} {list(a.shape)}")
        if a.min() < -(2**31) or a.max() >= 2**31:
            raise Error(f"{what}: {a.max()} is no token")
        return np.ascontiguousarray(np.atleast_2d(a), dtype=np.int32)

    def _fit(self, batch: int, seq: int) -> None:
        """Makes the program for batches of this shape, with the weights there are."""
        if (self.shape.batch, self.shape.seq) != (batch, seq):
            made = self._made(batch, seq)
            check(lib.sl_model_take(made, self._m))
            self._m = made

    def forward(self, tokens: Tokens, targets: Tokens | None = None) -> Pass:
        """Runs a batch. targets: the next tokens unless given (the last position has none); below 0: left out."""
        a = self._tokens(tokens)
        if targets is None:
            t = np.concatenate([a[:, 1:], np.full((len(a), 1), -1, np.int32)], axis=1)
        else:
            t = self._tokens(targets, "targets")
        if t.shape != a.shape:
            raise Error(f"targets: expected {list(a.shape)}, as the tokens are, got {list(t.shape)}")
        t = np.ascontiguousarray(t)
        loss, token_loss = ffi.new("double *"), np.empty(a.shape, np.float32)
        with locked(self._threads):
            self._fit(*a.shape)
            check(lib.sl_model_forward(self._m, _pointer(a), _pointer(t), loss, _pointer(token_loss)))
        return Pass(float(loss[0]), token_loss)

    def logits(self, tokens: Tokens) -> Floats:
        """Logits [batch, seq, vocab]."""
        a = self._tokens(tokens)
        out = np.empty((*a.shape, self._vocab), np.float32)
        with locked(self._threads):
            self._fit(*a.shape)
            check(lib.sl_model_logits(self._m, _pointer(a), _pointer(out)))
        return out

    # ---- what the last pass left

    def residual(self, layer: int) -> Floats:
        """Residual stream h_0..h_layers, [batch, seq, dim]: h_0 embeddings, h_i output of block i-1."""
        with locked(self._threads):
            s = self.shape
            return _array(lib.sl_model_residual(self._m, layer), s.batch, s.seq, s.dim)

    def qkv(self, layer: int) -> QKV:
        """Queries, keys (after norm and rotary) and values of a block."""
        with locked(self._threads):
            s = self.shape
            tap = lib.sl_model_qkv(self._m, layer)
            widths = (s.heads, s.kv_heads, s.kv_heads)
            q, k, v = (self._rows(p, int(tap.ld), n) for p, n in zip((tap.q, tap.k, tap.v), widths, strict=True))
        return QKV(q, k, v, float(tap.scale))

    def _rows(self, p: Any, ld: int, heads: int) -> Floats:
        """Rows of heads * head_dim that stand ld apart."""
        s = self.shape
        rows, width = s.batch * s.seq, heads * s.head_dim
        if p == ffi.NULL:
            return _array(p)
        held = np.frombuffer(ffi.buffer(p, 4 * ((rows - 1) * ld + width)), np.float32)
        apart = np.lib.stride_tricks.as_strided(held, (rows, width), (4 * ld, 4))
        return apart.copy().reshape(s.batch, s.seq, heads, s.head_dim)

    def attention(self, layer: int, head: int) -> Floats:
        """Attention weights of a head, [batch, seq, seq], a row a query."""
        with locked(self._threads):
            s = self.shape
            out = np.empty((s.batch, s.seq, s.seq), np.float32)
            check(lib.sl_model_attention_weights(self._m, layer, head, _pointer(out)))
        return out

    def _check_norm(self, layer: int, which: int) -> None:
        layers = self.shape.layers
        if not 0 <= layer <= layers or which not in (0, 1) or (layer == layers and which):
            raise Error(f"no norm {which} of layer {layer}: blocks 0 to {layers - 1} have 0 (attention) and 1 "
                        f"(feed-forward), {layers} the final norm, 0")

    def norm_weight(self, layer: int, which: int = 0) -> Floats | None:
        """Weights [dim] of a block's norm: which 0 before attention, 1 before the feed-forward; layer = layers: the
        final norm. None: no such norm, or one without weights."""
        self._check_norm(layer, which)
        with locked(self._threads):
            p = lib.sl_model_norm_weight(self._m, layer, which)
            return None if p == ffi.NULL else _array(p, self.shape.dim)

    def norm_output(self, layer: int, which: int = 0) -> Floats:
        """Output of that norm, gate included, [batch, seq, dim]."""
        self._check_norm(layer, which)
        with locked(self._threads):
            s = self.shape
            return _array(lib.sl_model_norm_output(self._m, layer, which), s.batch, s.seq, s.dim)

    def norm_gate(self, layer: int, which: int = 0) -> Floats | None:
        """Values of the gate of a gated norm, [batch, seq, dim]; None: it has none."""
        self._check_norm(layer, which)
        with locked(self._threads):
            s = self.shape
            out = np.empty((s.batch, s.seq, s.dim), np.float32)
            _array(lib.sl_model_residual(self._m, 0), 1)  # raises before a pass
            has = lib.sl_model_norm_gate(self._m, layer, which, _pointer(out))
        return out if has else None

    # ---- figures

    def _data(self, text: str | bytes | None, tokens: Tokens | None, corpus: str | os.PathLike[str] | None) -> Any:
        """The data set that is meant, and its window's length. What is shorter than a window is one of that length."""
        if sum(x is not None for x in (text, tokens, corpus)) > 1:
            raise Error("give one of text, tokens and corpus")
        c = self._config
        if text is None and tokens is None:
            c = c if corpus is None else c.replace(**{"data.corpus": os.fspath(corpus)})
            data = lib.sl_open_data(c._c, path_bytes(self._path), self._vocab)
            return owned(data, lib.sl_dataset_close), c["model.seq"]
        ids = self._tokens(self.tokenizer.encode(text) if text is not None else np.asarray(tokens))[0]
        seq = min(c["model.seq"], len(ids) - (not c["data.bos"]))
        if seq < 1:
            raise Error("the text has no two tokens; nothing can be measured on it")
        c = c.replace(**{"model.seq": seq})
        return owned(lib.sl_dataset_of_tokens(c._c, _pointer(ids), len(ids)), lib.sl_dataset_close), seq

    def probe(self, text: str | bytes | None = None, *, tokens: Tokens | None = None,
              corpus: str | os.PathLike[str] | None = None, windows: int = 32, measures: str | None = None,
              profile: bool = False) -> Probe:
        """Measures sinks and outliers, as `sinklab probe` does.

        Of `text`, of `tokens` ([n] of a text; or [batch, seq], windows as they are, with nothing put in front), of a
        `corpus` (a name, folder or file), or of the model's own corpus: `windows` validation windows, spread over it.
        measures: names of `probe --measures`, with commas between. profile: every channel's mean and every norm weight
        too.
        """
        if tokens is not None and np.ndim(tokens) == 2:
            return self._probe_batch(tokens, profile)
        if windows < 1:
            raise Error(f"windows: at least 1, not {windows}")
        with locked(self._threads):
            data, seq = self._data(text, tokens, corpus)
            windows = min(windows, int(lib.sl_dataset_windows(data, lib.SL_VAL)))
            self._fit(int(lib.sl_measure_batch(max(windows, 1))), seq)
            names = ffi.NULL if measures is None else measures.encode()
            figures = take_json(lib.sl_measure_json(self._m, data, windows, names, profile))
        return Probe(figures, checkpoint=self._path)

    def _probe_batch(self, tokens: Tokens, profile: bool) -> Probe:
        with locked(self._threads):
            loss = self.forward(tokens).loss
            p = owned(lib.sl_probe_create(self._m), lib.sl_probe_free)
            check(lib.sl_probe_add(p, self._m))
            figures = take_json(lib.sl_probe_json(p, self._m, profile))
        return Probe(figures, loss=loss, val_loss=loss, bos=None, windows=self.shape.batch, checkpoint=self._path)

    def eval(self, text: str | bytes | None = None, *, tokens: Tokens | None = None,
             corpus: str | os.PathLike[str] | None = None, windows: int = 0, cloze: bool = False) -> dict[str, Any]:
        """Loss, perplexity and bits per byte over `windows` windows spread over the text (0: all), as `sinklab eval
        --json` prints them; text, tokens [n] and corpus as in probe(). cloze: also how often the first choice is right,
        of tokens and of words."""
        with locked(self._threads):
            data, seq = self._data(text, tokens, corpus)
            have = int(lib.sl_dataset_windows(data, lib.SL_VAL))
            self._fit(min(have, int(self._config["train.batch"])), seq)
            figures: dict[str, Any] = take_json(lib.sl_eval_json(self._m, data, windows, cloze))
        return figures

    # ---- text

    def stream(self, prompt: str | Sequence[int] = "", tokens: int | None = None, *, temperature: float = 1.0,
               top_k: int = 0, top_p: float = 1.0, seed: int = 1) -> Iterator[int]:
        """The tokens of generate(), one after the other; a prompt may be tokens, to which no BOS is added."""
        if not (temperature >= 0 and top_k >= 0 and 0 <= top_p <= 1):
            raise Error(f"temperature and top_k from 0, top_p from 0 to 1, not {temperature}, {top_k} and {top_p}")
        ids = self.encode(prompt) if isinstance(prompt, str) else np.asarray(prompt, np.int32)
        if len(ids) == 0:
            raise Error("the tokenizer has no BOS to begin with; give a prompt")
        room = int(self._config["model.seq"]) - len(ids)
        wanted = min(max(room, 1), 200) if tokens is None else tokens
        if wanted < 1 or wanted > room:
            raise Error(f"a prompt of {len(ids)} tokens and {wanted} new ones pass the model's window of "
                        f"{self._config['model.seq']} positions (model.seq)")
        with locked(self._threads):
            decoder = owned(lib.sl_model_create_decoder(self._config._c, self._vocab, 1, len(ids) + wanted),
                            lib.sl_model_free)
            check(lib.sl_model_take(decoder, self._m))
            if len(ids) > 1:
                check(lib.sl_model_prompt(decoder, _pointer(np.ascontiguousarray(ids[:-1])), len(ids) - 1))
            sampler = owned(lib.sl_sampler_create(self._vocab, seed), lib.sl_sampler_free)
        how = ffi.new("sl_sampling *", {"temperature": temperature, "top_k": top_k, "top_p": top_p})
        logits, token = np.empty(self._vocab, np.float32), ffi.new("int32_t *", int(ids[-1]))
        for at in range(len(ids) - 1, len(ids) + wanted - 1):
            with locked(self._threads):
                check(lib.sl_model_decode(decoder, token, at, _pointer(logits)))
                token[0] = lib.sl_sample(sampler, how, _pointer(logits))
            yield int(token[0])

    def generate(self, prompt: str = "", tokens: int | None = None, *, temperature: float = 1.0, top_k: int = 0,
                 top_p: float = 1.0, seed: int = 1) -> str:
        """The prompt and what the model goes on with, as `sinklab generate` prints it: at most 200 tokens unless
        `tokens` says how many. temperature 0 takes the likeliest token; the same seed gives the same text."""
        new = self.stream(prompt, tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        return prompt + self.tokenizer.decode(new)

    # ---- interventions

    def edit(self, *, clip: float | None = None, nullify: int | None = None, nullify_mode: str | None = None,
             nullify_value: str | None = None, bos: Bos = None, first_token: int | str | None = None,
             keys: Mapping[str, Any] | None = None, **more: Any) -> Model:
        """A model of the same weights with other keys; this one stays as it is.

        clip: model.clip, the residual stream's largest value. nullify: model.sink_nullify, so many sink channels in
        front of norms are replaced (nullify_mode: both, output or denominator; nullify_value: zero or mean); probe() or
        eval() finds out which, before any other pass. bos: whether windows of texts begin with BOS. first_token: an id
        or token that they begin with instead. keys, and keyword arguments: any keys that leave the weights as they are.
        """
        named = {"model.clip": clip, "model.sink_nullify": nullify, "model.sink_nullify_mode": nullify_mode,
                 "model.sink_nullify_value": nullify_value, "data.bos": True if bos is True else None}
        changed = {k: v for k, v in named.items() if v is not None} | {**(keys or {}), **more}
        o, kept = options(changed, bos_text(bos) if first_token is None else str(first_token))
        with locked(self._threads):
            c = owned(lib.sl_config_copy(self._config._c), lib.sl_config_free)
            check(lib.sl_config_change(c, o, path_bytes(self._path or "the model")))
            del kept
            other = Model(Config._of(c), self._vocab, self._path, self.shape.batch, self.shape.seq)
            check(lib.sl_model_take(other._m, self._m))
        return other

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a run folder with one checkpoint, which open() and the verbs read."""
        state = ffi.new("sl_train_state *", {"loss_mean": math.nan, "best_val_loss": math.nan})
        with locked(self._threads):
            check(lib.sl_model_save(self._m, path_bytes(folder), state, 1))


def open(path: str | os.PathLike[str], *, batch: int | None = None, seq: int | None = None, bos: Bos = None,
         keys: Mapping[str, Any] | None = None, **more: Any) -> Model:
    """Opens a run, a checkpoint folder, a Hugging Face folder or a GGUF file.

    seq: positions of a window of text (model.seq; of models of others 256, where they take more). batch: windows of the
    first pass, for which memory is taken now. bos: what windows of texts begin with: False, a token or an id; else as
    the run's, or by the tokenizer's own rule. keys, and keyword arguments: configuration keys over the checkpoint's,
    such as {"data.corpus": "treasury"} or threads=2.
    """
    changed = {**(keys or {}), **more, **({} if seq is None else {"model.seq": seq}),
               **({"data.bos": True} if bos is True else {})}
    o, kept = options(changed, bos_text(bos))
    found, vocab = ffi.new("char[]", int(lib.SL_DIR_CHARS)), ffi.new("int32_t *")
    with locked():
        c = owned(lib.sl_config_create(), lib.sl_config_free)
        check(lib.sl_open(path_bytes(path), o, c, found, vocab))
        del kept
        config = Config._of(c)
        model = Model(config, int(vocab[0]), os.fsdecode(ffi.string(found)), batch or 1, int(config["model.seq"]))
        check(lib.sl_model_load(model._m, found, ffi.NULL))
    return model


def create(config: Source = None, *, vocab: int | None = None, batch: int = 1, seed: int | None = None,
           keys: Mapping[str, Any] | None = None, **more: Any) -> Model:
    """A model with the initial weights of a seed (the configuration's unless given); vocab: that of its tokenizer."""
    c = Config(config, **{**(keys or {}), **more})
    with locked():
        lib.sl_threads_set(int(c["threads"]))
        if vocab is None:
            vocab = Tokenizer._of(owned(lib.sl_dataset_open_tokenizer(c._c), lib.sl_tokenizer_close)).vocab
        model = Model(c, vocab, "", batch, int(c["model.seq"]))
        check(lib.sl_model_init(model._m, int(c["seed"]) if seed is None else seed))
    return model
