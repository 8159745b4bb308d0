"""Tokenizers: bytes, tokenizer.json files, those of GGUF files."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ._lib import Error, check, ffi, lib, locked, owned

__all__ = ["Tokenizer"]

_BOUNDARY = b"<|endoftext|>\n"


class Tokenizer:
    """A tokenizer: `"bytes"`, `"bpe:FILE"` with FILE a tokenizer.json, `"gguf:FILE"` or `"ids:VOCABULARY[:BOS]"`.

    >>> t = Tokenizer("bytes")
    >>> t.encode("sink").tolist(), t.vocab, t.bos
    ([115, 105, 110, 107], 257, 256)
    >>> t.decode([115, 105])
    'si'
    """

    def __init__(self, spec: str = "bytes", bos: int | str | None = None, literal: bool = False) -> None:
        """bos: another token than the tokenizer's own. literal: special tokens that stand in a text are text."""
        with locked():
            self._t = owned(lib.sl_tokenizer_open(spec.encode()), lib.sl_tokenizer_close)
            if bos is not None:
                check(lib.sl_tokenizer_set_bos(self._t, str(bos).encode()))
            if literal:
                lib.sl_tokenizer_take_literally(self._t)

    @classmethod
    def _of(cls, t: Any) -> Tokenizer:
        self = cls.__new__(cls)
        self._t = t
        return self

    @property
    def vocab(self) -> int:
        return int(lib.sl_tokenizer_vocab(self._t))

    @property
    def bos(self) -> int | None:
        """The id of BOS, None where there is none."""
        bos = int(lib.sl_tokenizer_bos(self._t))
        return None if bos < 0 else bos

    @property
    def adds_bos(self) -> bool:
        """Whether texts begin with BOS by the tokenizer's own rule. encode() never adds it."""
        return bool(lib.sl_tokenizer_adds_bos(self._t))

    def encode(self, text: str | bytes) -> npt.NDArray[np.int32]:
        """Tokens of a text, without BOS in front."""
        data = text.encode() if isinstance(text, str) else text
        out, count = ffi.new("int32_t **"), ffi.new("int64_t *")
        with locked():
            check(lib.sl_tokenizer_encode(self._t, data, len(data), out, count))
        tokens = np.frombuffer(ffi.buffer(out[0], 4 * count[0]), np.int32).copy() if count[0] else np.empty(0, np.int32)
        lib.free(out[0])
        return tokens

    def piece(self, token: int) -> bytes:
        """The bytes of one token; of BOS the line that encodes to it."""
        n = ffi.new("size_t *")
        with locked():
            p = lib.sl_tokenizer_piece(self._t, int(token), n)
        if p == ffi.NULL:
            if token == self.bos:
                return _BOUNDARY
            raise Error(f"token {token} isn't in the vocabulary of {self.vocab}")
        return bytes(ffi.buffer(p, n[0]))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.piece(int(t)) for t in tokens).decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"<sinklab.Tokenizer of {self.vocab} tokens>"
