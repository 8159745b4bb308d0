"""Models for lm-evaluation-harness: `--model sinklab --model_args path=PATH`.

Its versions that look for the entry point `lm_eval.models` find the class by themselves; for others this module runs
the harness: `python -m sinklab.lm_eval_model run --model sinklab --model_args path=runs/base,seq=256 --tasks ...`.
Further arguments are those of sinklab.open(); a task's texts are cut to the model's window, model.seq.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from .model import open as open_model

__all__ = ["SinklabLM"]

# Of the harness, which says them of every model.
_NOT_OURS = ("device", "max_batch_size")
_AUTO_BATCH = 8

Scored = tuple[list[int], list[int]]  # context, and what is scored behind it


def _log_softmax(logits: Any) -> Any:
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@register_model("sinklab")
class SinklabLM(TemplateLM):
    """A model of sinklab.open()."""

    def __init__(self, path: str, batch_size: int | str = 1, **keys: Any) -> None:
        super().__init__()
        self.model = open_model(path, **{k: v for k, v in keys.items() if k not in _NOT_OURS})
        self.batch_size = _AUTO_BATCH if str(batch_size).startswith("auto") else int(batch_size)
        self.max_length = int(self.model.config["model.seq"])

    @property
    def eot_token_id(self) -> int:
        bos = self.model.tokenizer.bos
        return 0 if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return str(self.model.config["data.tokenizer"])

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        plain = add_special_tokens is False
        ids: list[int] = (self.model.tokenizer.encode(string) if plain else self.model.encode(string)).tolist()
        return ids

    def _score(self, batch: Sequence[Scored]) -> Iterator[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether each of its tokens is the likeliest."""
        inputs = [(context + scored)[-self.max_length - 1:][:-1] for context, scored in batch]
        tokens = np.zeros((len(batch), max(map(len, inputs))), np.int32)
        for row, ids in zip(tokens, inputs):
            row[:len(ids)] = ids  # what stands behind changes nothing before it
        logits = self.model.logits(tokens)
        for row, ids, (_, scored) in zip(logits, inputs, batch):
            wanted = np.array(scored[-len(ids):])
            p = _log_softmax(row[len(ids) - len(wanted):len(ids)])
            yield float(p[np.arange(len(wanted)), wanted].sum()), bool((p.argmax(-1) == wanted).all())

    def _score_all(self, pairs: Sequence[Scored]) -> list[tuple[float, bool]]:
        """In batches of about the same length."""
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        found: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(order), self.batch_size):
            places = order[first:first + self.batch_size]
            found.update(zip(places, self._score([pairs[i] for i in places])))
        return [found[i] for i in range(len(pairs))]

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        return self._score_all([(context, scored) for _, context, scored in requests])

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        sums = []
        for request in requests:
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            sums.append(sum(x for x, _ in self._score_all([make_disjoint_window(w) for w in windows])))
        return sums

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, how: dict[str, Any]) -> str:
        until = how.get("until") or []
        until = [until] if isinstance(until, str) else until
        wanted = int(how.get("max_gen_toks", 64))
        room = self.max_length - wanted
        ids = self.tok_encode(context)[-room:]
        temperature = float(how.get("temperature", 0)) if how.get("do_sample") else 0.0
        pieces, text = b"", ""
        for token in islice(self.model.stream(ids, wanted, temperature=temperature), wanted):
            pieces += self.model.tokenizer.piece(token)
            text = pieces.decode("utf-8", "replace")
            ends = [text.index(stop) for stop in until if stop in text]
            if ends:
                return text[:min(ends)]
        return text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
