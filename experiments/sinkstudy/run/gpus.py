"""Places on GPUs for the runs of a workflow: each run has one for itself as long as its program goes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POLL = 0.2  # seconds


def visible(count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the first `count` of the GPUs that this process may use."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(i) for i in range(count)])[:count]


def places(work: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """A GPU's name and the file that is locked while a run is there; those of one GPU lie apart, so that GPUs fill
    evenly."""
    return [(name, Path(work["store"], f".gpu-{name.replace('/', '_')}-{i}"))
            for i in range(work.get("per_gpu", 1)) for name in work.get("gpus", [])]


@contextmanager
def place(work: Mapping[str, Any], device: str) -> Iterator[dict[str, str]]:
    """Waits for a place; what the program's environment gets. On the CPU: nothing, at once. The system frees the place
    of a process that dies."""
    if device == "cpu" or not work.get("gpus"):
        yield {}
        return
    while True:
        for name, path in places(work):
            held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(held)
                continue
            try:
                yield {"CUDA_VISIBLE_DEVICES": name}
                return
            finally:
                os.close(held)
        time.sleep(POLL)
