"""Configurations: what `sinklab config` lists."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ._lib import check, ffi, lib, locked, owned, path_bytes, take_json, take_text

__all__ = ["Config", "Source", "assignments"]

Source = str | os.PathLike[str] | Mapping[str, Any] | None  # Config is a mapping too


def _value(x: Any) -> str:
    """As YAML reads it back."""
    if isinstance(x, (list, tuple)):
        return "[" + ", ".join(map(_value, x)) + "]"
    if hasattr(x, "item"):  # a number of NumPy's
        x = x.item()
    return json.dumps(os.fspath(x) if isinstance(x, os.PathLike) else x, ensure_ascii=False)


def assignments(keys: Mapping[str, Any], section: str = "") -> list[str]:
    """Keys, dotted or in sections, as `key=value`.

    >>> assignments({"model": {"norm": "layernorm", "dim": 64}, "train.lr": 1e-3})
    ['model.norm="layernorm"', 'model.dim=64', 'train.lr=0.001']
    """
    found: list[str] = []
    for name, value in keys.items():
        if isinstance(value, Mapping):
            found += assignments(value, f"{section}{name}.")
        else:
            found.append(f"{section}{name}={_value(value)}")
    return found


def _is_text(source: str) -> bool:
    return "\n" in source or ": " in source or "{" in source


class Config(Mapping[str, Any]):
    """A configuration: a mapping of dotted keys, `c["model.norm"]`, to the values in force.

    `source` is the path of a YAML file, YAML text, a mapping (dotted keys or sections), another Config, or None for the
    defaults; `keys` go over it.

    >>> c = Config("model: {dim: 64, heads: 2}", **{"model.norm": "gated_norm"})
    >>> c["model.dim"], c["model.norm"]
    (64, 'gated_norm')
    """

    def __init__(self, source: Source = None, **keys: Any) -> None:
        with locked():
            c = lib.sl_config_copy(source._c) if isinstance(source, Config) else lib.sl_config_create()
            self._c: Any = owned(c, lib.sl_config_free)
        if not isinstance(source, Config):
            self._read(source)
        self._override(keys)
        with locked():
            check(lib.sl_config_check(self._c))
        self._values: dict[str, Any] | None = None

    @classmethod
    def _with_init(cls, path: bytes, source: Source, keys: Mapping[str, Any]) -> Config:
        """The model of a checkpoint, and over it what is given."""
        with locked():
            c = owned(lib.sl_config_create(), lib.sl_config_free)
            check(lib.sl_config_take_init(c, path))
        self = cls._of(c)
        self._read(source)
        return cls(self, **keys)

    @classmethod
    def _of(cls, c: Any) -> Config:
        """Takes over what was read elsewhere."""
        self = cls.__new__(cls)
        self._c, self._values = c, None
        return self

    def _read(self, source: Source) -> None:
        if isinstance(source, Mapping):
            self._override(source)
        elif isinstance(source, str) and _is_text(source):
            text = source.encode()
            with locked():
                check(lib.sl_config_parse(self._c, text, len(text), b"the configuration"))
        elif source is not None:
            with locked():
                check(lib.sl_config_read(self._c, path_bytes(source)))

    def _override(self, keys: Mapping[str, Any]) -> None:
        with locked():
            for assignment in assignments(keys):
                check(lib.sl_config_override(self._c, assignment.encode()))

    def _all(self) -> dict[str, Any]:
        if self._values is None:
            with locked():
                self._values = take_json(lib.sl_config_json(self._c))
        assert self._values is not None
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    @property
    def yaml(self) -> str:
        """All of it, as `sinklab config --dump` prints it."""
        with locked():
            return take_text(lib.sl_config_yaml(self._c))

    def replace(self, **keys: Any) -> Config:
        """The same with other keys."""
        return Config(self, **keys)

    @staticmethod
    def keys_help() -> list[dict[str, Any]]:
        """The table of keys: key, type, default, legal values, help."""
        with locked():
            table: list[dict[str, Any]] = take_json(lib.sl_config_keys_json())
        return table

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON schema (draft 2020-12) of configurations, in sections or with dotted keys."""
        with locked():
            schema: dict[str, Any] = take_json(lib.sl_config_schema())
        return schema

    def __repr__(self) -> str:
        return f"<sinklab.Config {self['model.norm']}, {self['model.layers']} layers of {self['model.dim']}>"


def options(keys: Mapping[str, Any], bos: str | None) -> tuple[Any, list[Any]]:
    """An sl_open_options, and what it points to."""
    kept: list[Any] = [ffi.new("char[]", a.encode()) for a in assignments(keys)]
    array = ffi.new("char *[]", kept)
    o = ffi.new("sl_open_options *", {"key": array, "keys": len(kept)})
    if bos is not None:
        kept.append(ffi.new("char[]", bos.encode()))
        o.bos = kept[-1]
    return o, [*kept, array]
