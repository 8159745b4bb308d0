"""The store of runs: one folder for each distinct run, named by a hash of what decides it, shared by all studies.

A run's folder is that of `sinklab train`, with identity.json (what was hashed), trained.json (status and figures of the
training) and, for each set of measures that a study wants, its outcome. Python's own library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sinkstudy.places import ROOT

# Don't decide what is trained, but which steps peaks and onsets are taken from; and where it ran, for the last bits.
RECORDED = ("train.probe_every", "train.probe_log", "device")
GIT_SECTION = "sinklab_git"  # of src/base/version.c
SHF_ALLOC, SHT_NULL, SHT_NOTE, SHT_NOBITS = 2, 0, 7, 8

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"


class StoreError(Exception):
    """The store cannot be used; the message is one line."""


# ---- files


def digest(value: Any) -> str:
    """Sixteen hex digits of a JSON value's SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """At once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """{} where there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def sha256_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# ---- what decides a run


def engine_hash(program: Path) -> str:
    """Of the program's code and data as they are loaded: not of debug information, the build id or the git version."""
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return hashlib.sha256(data).hexdigest()
    table, size, count, names_at = (*struct.unpack_from("<Q", data, 0x28), *struct.unpack_from("<HHH", data, 0x3A))
    sections = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    names = sections[names_at][4]
    found = hashlib.sha256()
    for name_at, kind, flags, address, at, length in sections:
        name = data[names + name_at:data.index(b"\0", names + name_at)]
        if flags & SHF_ALLOC and kind not in (SHT_NULL, SHT_NOTE, SHT_NOBITS) and name != GIT_SECTION.encode():
            found.update(b"%s %d %d\n" % (name, address, length) + data[at:at + length])
    return found.hexdigest()


def corpora_folder() -> Path:
    return Path(os.environ.get("SINKLAB_DATA") or ROOT / "data" / "corpora")


def corpus_files(value: str) -> list[Path]:
    """The files that data.corpus (or data.synthetic.text) names, found as the engine finds them; none: it isn't
    there."""
    folder = corpora_folder() / value
    place = folder if "/" not in value and not value.startswith(".") and folder.is_dir() else Path(value)
    if place.is_file():
        val = Path(value.removesuffix("_train.bin") + "_val.bin")
        return [place, val] if value.endswith("_train.bin") and val.is_file() else [place]
    for pair in ("train.txt", "val.txt"), ("train.bin", "val.bin"):
        if (place / pair[0]).is_file():
            return [place / name for name in pair if (place / name).is_file()]
    if place.is_dir():
        return sorted(path for path in place.glob("*.txt") if not path.name.startswith("."))
    return [Path(f"{value}_{part}.bin") for part in ("train", "val") if Path(f"{value}_{part}.bin").is_file()]


class Data:
    """Hashes of corpora and tokenizers, each computed once."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def files(self, value: str, files: list[Path]) -> str:
        if value not in self.known:
            parts = [f"{path.name} {sha256_file(path)}" for path in files]
            self.known[value] = f"sha256 {digest(parts)}" if parts else f"missing {value}"
        return self.known[value]

    def contents(self, config: Mapping[str, Any]) -> dict[str, str]:
        """What stands for the keys that name files, so that it counts what is in them and not where they are."""
        found = {}
        synthetic = str(config["data.corpus"]).startswith("synthetic:")
        keys = ("data.synthetic.text",) if synthetic else ("data.corpus",)
        for key in keys:
            if str(config[key]) != "built-in":
                found[key] = self.files(str(config[key]), corpus_files(str(config[key])))
        kind, colon, name = str(config["data.tokenizer"]).partition(":")
        if colon and kind == "bpe":
            found["data.tokenizer"] = "bpe " + self.files(name, [Path(name)] if Path(name).is_file() else [])
        return found


def identity(config: Mapping[str, Any], decisive: Mapping[str, bool], data: Data, engine: str) -> dict[str, Any]:
    """What a run's hash is over. decisive: `decides_result` of each key."""
    kept = {key: value for key, value in config.items() if decisive.get(key, True) or key in RECORDED}
    return {"config": kept | data.contents(config), "engine": engine}


# ---- one runner at a time


def lock(store: Path, who: str) -> int:
    """Takes the store for this process and its children, as long as one of them lives."""
    store.mkdir(parents=True, exist_ok=True)
    path = store / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 200).decode(errors="replace").strip() or "another runner"
        os.close(fd)
        raise StoreError(f"{store}: {holder} is at work there; wait for it, or give another --runs") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{who} (process {os.getpid()})\n".encode(), 0)
    os.set_inheritable(fd, True)
    return fd
