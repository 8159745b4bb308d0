"""The same bits for any number of threads, on each kernel tier that this machine has."""

import json
import os

import common
from common import UNIT

# Shapes that do not divide: rows and columns are left over in every kernel, and threads get unequal parts.
MODEL = ["model.layers=2", "model.dim=72", "model.heads=6", "model.kv_heads=2", "model.ffn=100", "model.seq=50",
         "model.qk_norm=true", "train.batch=3", "train.accumulate=2", f"train.steps={UNIT // 16}", "train.warmup=1",
         "train.eval_every=2", "train.probe_every=2", "train.checkpoint_every=0"]
VARIANTS = {"scalar": ["isa=scalar", "model.norm=gated_norm"], "avx2": ["isa=avx2", "model.norm=gated_norm"],
            "avx512": ["isa=avx512", "model.norm=gated_norm"], "neon": ["isa=neon", "model.norm=gated_norm"],
            "best": ["model.norm=gated_norm"], "best, bf16": ["precision=bf16", "model.norm=gated_norm"],
            "best, sgd": ["train.optimizer=sgd", "data.corpus=synthetic:copy"],
            "best, muon": ["train.optimizer=muon", "data.corpus=synthetic:backcopy", "data.bos_place=random"],
            "best, nullify": ["model.sink_nullify=3", "model.sink_nullify_mode=output",
                              "model.sink_nullify_value=mean"],
            "best, nullify, bf16": ["model.sink_nullify=3", "model.sink_nullify_mode=denominator", "precision=bf16",
                                    "model.sink_nullify_from=17"],
            "best, layernorm": ["model.norm=layernorm", "model.ffn_kind=gelu", "model.tie_embeddings=true"],
            "best, anchors": ["model.anchors=internal", "model.anchors_opts.coefficients=elementwise",
                              "model.attention_opts.gate=elementwise"],
            "best, bf16 anchors": ["precision=bf16", "model.anchors=external", "model.anchors_opts.dynamic=true",
                                   "model.attention_opts.gate=elementwise"],
            "best, oasis": ["model.residual=oasis", "model.attention=softmax1", "model.residual_opts.block=3"],
            "best, bf16 oasis": ["precision=bf16", "model.residual=oasis", "model.attention=softmax1",
                                 "model.residual_opts.form=states", "model.mixer=[softmax, gdn]"],
            "best, bf16 rwkv7": ["precision=bf16", "model.mixer=rwkv7", "model.ffn_shift=true",
                                 "model.rwkv7_opts.head_dim=12"],
            "best, experts": ["precision=fp32", "model.experts=5", "model.expert_ffn=37", "model.expert_capacity=1.1",
                              "model.router_z_loss=0.1"],
            "best, bf16 experts": ["precision=bf16", "model.experts=9", "model.experts_per_token=3",
                                   "model.expert_ffn=70",
                                   "model.shared_experts=1", "model.shared_expert_gate=true", "model.router=sigmoid",
                                   "model.balance=bias"]}


class Threads(common.EndToEnd):
    def test_same_bits(self) -> None:
        for i, (name, args) in enumerate(VARIANTS.items()):
            with self.subTest(name):
                runs = [self.train(f"{i}-{n}", *MODEL, *args, f"threads={n}") for n in (1, 2, 3)]
                env = [json.loads((r / "env.json").read_text()) for r in runs]
                self.assertEqual([e["threads"] for e in env], [1, 2, 3])
                if "," not in name and name not in ("best", env[0]["tier"]):
                    self.skipTest(f"no {name} here: {env[0]['tier']} is the nearest")
                for other in runs[1:]:
                    self.assert_same_run(runs[0], other)

    def test_openmp_binding_hides_no_cores(self) -> None:
        """The first thread is bound to one place before we start; the others' places are ours too."""
        counts = []
        for more in ({}, {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"}):
            p = self.sinklab("doctor", "--threads", 1, "--json", env={**os.environ, **more})
            counts.append(json.loads(p.stdout)["hardware_threads"])
        self.assertEqual(*counts)

    def test_pin(self) -> None:
        runs = [self.train(f"pin-{pin}", *MODEL, "threads=2", f"pin={pin}") for pin in ("off", "compact", "spread")]
        for other in runs[1:]:
            self.assert_same_run(runs[0], other)

    def test_tiers_agree(self) -> None:
        """Other tiers round otherwise and train to the same loss, nearly."""
        losses = {}
        for isa in ("scalar", "avx2", "avx512", "auto"):
            run = self.train(f"tier-{isa}", *MODEL, f"isa={isa}")
            losses[isa] = common.lines(run / "metrics.jsonl")[-1]["loss"]
        for isa, loss in losses.items():
            # A few steps at most amplify a relative 1e-6 or so a hundredfold; a wrong kernel is off by far more.
            self.assertAlmostEqual(loss, losses["scalar"], delta=2e-3, msg=isa)


if __name__ == "__main__":
    common.main()
