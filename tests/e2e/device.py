"""A run of device: cuda where there is no GPU: what reads it, and what goes on with it. The run is trained by the whole
program over the emulation of CUDA (tests/cuda), SINKLAB_EMULATED; all else is the program itself, which sees no GPU."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import common
from common import EndToEnd

EMULATED = os.environ["SINKLAB_EMULATED"]
SMALL = ["model.layers=1", "train.steps=8", "train.warmup=0", "train.probe_every=4", "train.eval_every=4",
         "train.checkpoint_every=4"]


class Device(EndToEnd):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        subprocess.run([EMULATED, "train", "t.yaml", "--out", "gpu", *SMALL, "device=cuda"], check=True,
                       stdout=subprocess.DEVNULL)
        subprocess.run([common.SINKLAB, "train", "t.yaml", "--out", "cpu", *SMALL], check=True,
                       stdout=subprocess.DEVNULL)

    def result(self, run: str) -> dict:
        return json.loads(Path(run, "result.json").read_text())

    def test_trained(self) -> None:
        """Up to rounding as on the CPU, and the run says where it was."""
        self.assertIn("device: cuda\n", Path("gpu/config.yaml").read_text())
        tiers = [json.loads(Path(run, "env.json").read_text())["tier"] for run in ("gpu", "cpu")]
        self.assertEqual(tiers, ["emulated", self.json("doctor", "--json")["tier"]])
        gpu, cpu = self.result("gpu"), self.result("cpu")
        self.assertEqual(gpu["status"], "finished")
        self.assertAlmostEqual(gpu["val_loss"], cpu["val_loss"], delta=1e-4)
        self.assertAlmostEqual(gpu["probe"]["m2"], cpu["probe"]["m2"], delta=1e-3 * cpu["probe"]["m2"])

    def test_read(self) -> None:
        """Verbs read the run on the CPU, unless they are told otherwise."""
        loss = self.json("eval", "gpu", "--json", "--windows", 8)["loss"]
        self.assertAlmostEqual(loss, self.result("gpu")["val_loss"], delta=1e-4)
        m2 = [self.json("probe", run, "--json")["m2"] for run in ("gpu", "cpu")]
        self.assertAlmostEqual(*m2, delta=1e-3 * m2[1])
        self.sinklab("generate", "gpu", "--tokens", "4")
        self.assertIn("device: cuda", self.error("eval", "gpu", "device=cuda"))

    def quantize(self, device: str, *args: object) -> dict:
        """By the whole program over the emulation, on either."""
        p = subprocess.run([EMULATED, "quantize", *map(str, args), "--windows", "4", "--calibration", "4", "--json",
                            f"device={device}"], capture_output=True, check=True)
        return json.loads(p.stdout)

    def assert_near(self, a: dict, b: dict, within: float) -> None:
        """Sums in another order throw a value at the edge of two codes, one in thousands, to either; its error is the
        same there, and the loss is moved by a step of one value."""
        self.assertAlmostEqual(a["loss"]["value"], b["loss"]["value"], delta=within)
        self.assertEqual(*([(e["layer"], e["tensor"]) for e in x["errors"]] for x in (a, b)))
        for x, y in zip(a["errors"], b["errors"]):
            self.assertAlmostEqual(x["relative"], y["relative"], delta=1e-4 * y["relative"])

    def test_quantize(self) -> None:
        """Losses, errors, calibration and what was exported, on the device beside the CPU."""
        for scheme, *flags in (
                ("w8a8-channel-token", "--smooth", "0.5"), ("w8a8-tensor-affine", "--clip", "percentile"),
                ("w4a4-channel-static", "--clip", "mse"), ("nvfp4-token", "--rotate", "--kv", "--head")):
            with self.subTest(scheme):
                gpu, cpu = (self.quantize(device, "cpu", "--scheme", scheme, *flags) for device in ("cuda", "cpu"))
                self.assertAlmostEqual(gpu["fp32"]["loss"], cpu["fp32"]["loss"], delta=1e-5)
                self.assert_near(gpu, cpu, 1e-4 if "8" in scheme else 1e-3)
        gpu = self.quantize("cuda", "cpu", "--scheme", "w8a8-tensor-static", "--export", "exported")
        for again in (self.quantize("cuda", "exported"), self.json("quantize", "exported", "--windows", 4, "--json")):
            self.assert_near(again, gpu, 1e-4)

    def test_goes_on(self) -> None:
        """A run of the device goes on with device: cpu, and the other way round."""
        for run, program, device in (("gpu", common.SINKLAB, "cpu"), ("cpu", EMULATED, "cuda")):
            with self.subTest(run):
                half = Path(f"{run}-half")
                shutil.copytree(run, half)
                shutil.rmtree(half / "checkpoints" / "00000008")
                subprocess.run([program, "train", "t.yaml", "--out", half, *SMALL, f"device={device}", "--resume"],
                               check=True, stdout=subprocess.DEVNULL)
                self.assertAlmostEqual(self.result(str(half))["val_loss"], self.result(run)["val_loss"], delta=1e-4)


if __name__ == "__main__":
    common.main()
