"""The figures of a probe."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._lib import lib, locked, take_json

if TYPE_CHECKING:
    import pandas

__all__ = ["Probe"]

# Arrays of layers that say something per head, per channel or per sink dimension: a frame has their layers' numbers.
_PER_HEAD = {"att0": "mean", "entropy": "mean"}


class Probe(dict[str, Any]):
    """What `sinklab probe --json` prints, as a dict: figures of the model, and "layers", a list of dicts.

    src/sinklab.h defines each figure at sl_probe_json(), with its source in src/probe/measures.h.
    """

    def frame(self) -> pandas.DataFrame:
        """One row a layer 0..L: its figures that are numbers, att0 and entropy as means over heads."""
        import pandas as pd

        rows = []
        for layer in self["layers"]:
            row = {k: v for k, v in layer.items() if not isinstance(v, (list, dict))}
            for name in _PER_HEAD:
                heads = [x for x in layer.get(name, []) if x is not None]
                row[name] = sum(heads) / len(heads) if heads else None
            rows.append(row)
        return pd.DataFrame(rows).set_index("layer")

    def heads(self, name: str = "att0") -> pandas.DataFrame:
        """A figure of each head, "att0" or "entropy": one row a block, one column a head."""
        import pandas as pd

        table = {layer["layer"]: layer[name] for layer in self["layers"] if name in layer}
        return pd.DataFrame.from_dict(table, orient="index").rename_axis("layer")

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON schema (draft 2020-12) of a probe, with what each figure is."""
        with locked():
            schema: dict[str, Any] = take_json(lib.sl_measure_schema())
        return schema

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {self[name]:.4g}" for name in ("max", "m2", "att0", "loss")
                         if isinstance(self.get(name), (int, float)))
        return f"<sinklab.Probe of {len(self.get('layers', []))} layers: {told}>"
