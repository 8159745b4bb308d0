"""The library behind the package: errors, the lock, and what every call needs."""
from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._sinklab import ffi, lib

__all__ = ["Error", "check", "failed", "ffi", "lib", "locked", "owned", "path_bytes", "take_json", "take_text"]


class Error(Exception):
    """What went wrong, where, and how to mend it, in one line."""


# The library may be called from one thread at a time; a thread that comes while another is in it waits. Passes release
# the interpreter's lock, so that other threads of the program go on meanwhile.
_lock = threading.RLock()
# What Python raised while the library was running: an interrupt, or a warning that is an error.
_raised: list[BaseException] = []


def _keep(kind: type[BaseException], value: BaseException, trace: object) -> None:
    _raised.append(value)


def _stop(_: Any) -> bool:
    """Called between batches. Running Python at all is what lets a pending Ctrl-C be raised, here."""
    return bool(_raised)


def _warn(_: Any, line: Any) -> None:
    warnings.warn(_text(line), stacklevel=3)


ffi.def_extern(name="sl_python_stop", onerror=_keep, error=True)(_stop)
ffi.def_extern(name="sl_python_warn", onerror=_keep)(_warn)
lib.sl_stop_when(lib.sl_python_stop, ffi.NULL)
lib.sl_warn_to(lib.sl_python_warn, ffi.NULL)


# OpenMP's threads do not follow a process that forks; a child that waits for them waits for ever.
_forked = False


def _note_fork() -> None:
    global _forked
    _forked = _forked or lib.sl_threads() > 1


os.register_at_fork(after_in_child=_note_fork)


@contextmanager
def locked(threads: int | None = None) -> Iterator[None]:
    """Around every call; `threads`: those that a model was made for, which then are in force."""
    if _forked:
        raise Error("the process was forked after the library had started its threads; start processes with spawn")
    with _lock:
        if threads is not None and lib.sl_threads() != threads:
            lib.sl_threads_set(threads)
        yield
        _raise_kept()


def _raise_kept() -> None:
    if _raised:
        kept = _raised[0]
        _raised.clear()
        raise kept


def _text(p: Any) -> str:
    return bytes(ffi.string(p)).decode("utf-8", "replace")


def failed() -> Error:
    """The message of this thread's last failure; or raises what Python itself has to say."""
    _raise_kept()
    return Error(_text(lib.sl_error()))


def check(rc: int) -> None:
    """Of a function that returns 0, or -1."""
    if rc < 0:
        raise failed()


def owned(p: Any, free: Any) -> Any:
    """A pointer that frees what it points to when nobody has it any more."""
    if p == ffi.NULL:
        raise failed()
    return ffi.gc(p, free)


def take_text(p: Any) -> str:
    """A text that was to be freed."""
    if p == ffi.NULL:
        raise failed()
    text = _text(p)
    lib.free(p)
    return text


def take_json(p: Any) -> Any:
    return json.loads(take_text(p))


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise Error(f"{encoded!r}: a path has no zero bytes")
    return encoded
