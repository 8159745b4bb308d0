"""JSON schemas of configurations and probes: what the verbs write is legal, and what is not theirs is not."""
import copy
import json
import os
import random
import re
import struct
import sys
from pathlib import Path

import jsonschema
import yaml

sys.path.insert(0, str(Path(os.environ["SL_TESTS"], "e2e")))
import common
import sinklab

GOLDEN = Path(os.environ["SL_TESTS"], "golden", "transformers")
TOKENS = ["data.corpus=tokens.bin", "data.tokenizer=ids:64:1", "model.seq=16", "threads=1"]


class Loader(yaml.SafeLoader):
    """With numbers as YAML 1.2, and sinklab, write them: 1e-06 is one."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
                             list("-+0123456789"))


def load(text: str | bytes) -> dict:
    config: dict = yaml.load(text, Loader)
    return config


class Schema(common.EndToEnd):
    def validator(self, verb: str, schema: dict) -> jsonschema.Draft202012Validator:
        self.assertEqual(schema, self.json(verb, "--schema"))
        jsonschema.Draft202012Validator.check_schema(schema)
        return jsonschema.Draft202012Validator(schema)

    def test_configurations(self) -> None:
        v = self.validator("config", sinklab.Config.schema())
        given = ["model.norm=gated_norm", "model.attention_opts.window=8",
                 "model.attention_opts.window_layers=[window, full]", "train.lr=2e-3"]
        for config in (load(self.sinklab("config", *given, "--dump").stdout), load(common.CONFIG),
                       self.json("config", *given, "--json"), dict(sinklab.Config()), {"model": {"norm_opts.rank": 4}}):
            v.validate(config)
        for config in ({"model": {"nrom": "rmsnorm"}}, {"model.norm": "rmsnrom"}, {"train": {"steps": -1}},
                       {"train.steps": 1.5}, {"model": 3}, {"seed": "one"}, {"model": {"norm_opts": {"rank": "many"}}}):
            with self.subTest(config), self.assertRaises(jsonschema.ValidationError):
                v.validate(config)

    def test_every_key_is_there_with_its_default(self) -> None:
        """And only what the parser takes is legal: the two know the same keys and choices."""
        v = self.validator("config", sinklab.Config.schema())
        for row in sinklab.Config.keys_help():
            v.validate({row["key"]: row["default"]})
            for choice in row.get("choices", []):
                v.validate({row["key"]: choice["value"]})
            if row["type"] in ("int", "real"):
                with self.assertRaises(jsonschema.ValidationError, msg=row["key"]):
                    v.validate({row["key"]: 2 * row["max"] + 1})

    def test_probes(self) -> None:
        v = self.validator("probe", sinklab.Probe.schema())
        rng = random.Random(1)
        Path("tokens.bin").write_bytes(struct.pack("<2000H", *(rng.randrange(64) for _ in range(2000))))
        self.train("gated", "model.norm=gated_norm")
        self.train("task", "data.corpus=synthetic:backcopy", "train.probe_every=0", "train.steps=5", "train.warmup=1")
        probes = [self.json("probe", path, *keys, "--windows", 4, "--json", *more)
                  for path, keys in [(GOLDEN / "gpt2", TOKENS), (GOLDEN / "phi", TOKENS), ("gated", []), ("task", [])]
                  for more in ([], ["--profile", "--measures", "all"])]
        model = sinklab.open("gated")
        probes += [model.probe(windows=3), model.probe(tokens=[[1, 2, 3]]), model.probe("a short text")]
        for p in probes:
            v.validate(p)
        p = probes[1]
        for break_it in (lambda p: p.pop("m2"), lambda p: p.update(m3=1), lambda p: p["layers"][0].pop("max"),
                         lambda p: p["layers"][0].update(max="large"), lambda p: p["sink_dims"].append([1, 2]),
                         lambda p: p["measures"].update(others=[]), lambda p: p.update(tokens=-1)):
            broken = copy.deepcopy(p)
            break_it(broken)
            with self.assertRaises(jsonschema.ValidationError):
                v.validate(broken)
        self.assertEqual(json.loads(json.dumps(p)), p)


if __name__ == "__main__":
    common.main()
