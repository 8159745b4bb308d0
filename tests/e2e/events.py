"""train.tensorboard: what TensorBoard is given are the numbers of metrics.jsonl and probe.jsonl, also of a run that was
killed and went on; and it changes nothing else."""

import importlib
import re
import resource
import struct
import unittest
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import common
from common import UNIT

ARGS = [f"train.steps={6 * UNIT}", f"train.eval_every={UNIT}", f"train.probe_every={UNIT}",
        f"train.checkpoint_every={3 * UNIT}"]
ON = "train.tensorboard=true"

Message = dict[int, list]
Scalars = dict[tuple[str, int], float]


def crc32c(data: bytes) -> int:
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff)


def records(data: bytes) -> Iterator[bytes]:
    """The payloads of TFRecords, up to one that is cut off."""
    while len(data) >= 12:
        n, = struct.unpack_from("<Q", data)
        if data[8:12] != masked(data[:8]):
            raise ValueError("CRC of a length")
        if len(data) < 16 + n:
            return
        payload = data[12:12 + n]
        if data[12 + n:16 + n] != masked(payload):
            raise ValueError("CRC of a payload")
        yield payload
        data = data[16 + n:]


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def message(data: bytes) -> Message:
    """Field number: its values, in order."""
    fields: Message = {}
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        value: int | float | bytes
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            n, at = varint(data, at)
            value, at = data[at:at + n], at + n
        else:
            kind = {1: "<d", 5: "<f"}[key & 7]
            value, at = struct.unpack_from(kind, data, at)[0], at + struct.calcsize(kind)
        fields.setdefault(key >> 3, []).append(value)
    return fields


def event_files(run: Path) -> list[Path]:
    return sorted(run.glob("events.out.tfevents.*"))


def of_events(run: Path) -> Scalars:
    """What the files say, a later session's word before that of an earlier one."""
    scalars: Scalars = {}
    for path in event_files(run):
        first, *others = map(message, records(path.read_bytes()))
        if first[3] != [b"brain.Event:2"]:
            raise ValueError("no version first")
        for event in others:
            step = event[2][0]
            if 7 in event:
                scalars = {key: x for key, x in scalars.items() if key[1] < step}
                continue
            for value in map(message, message(event[5][0])[1]):
                key = value[1][0].decode(), step
                if key in scalars:
                    raise ValueError(f"twice: {key}")
                scalars[key] = value[2][0]
    return scalars


def of_lines(run: Path) -> Scalars:
    """The same out of the .jsonl files, as floats of 32 bits."""
    return {(f"{name}/{key}", line["step"]): struct.unpack("<f", struct.pack("<f", x))[0]
            for name in ("metrics", "probe") for line in common.lines(run / f"{name}.jsonl")
            for key, x in line.items() if type(x) in (int, float) and key != "step"}


class Events(common.EndToEnd):
    def assert_same_scalars(self, got: Scalars, run: Path) -> None:
        """metrics.jsonl has all bits; probe.jsonl nine digits, which may round to the float beside."""
        want = of_lines(run)
        self.assertEqual(got.keys(), want.keys())
        other = {key: (x, want[key]) for key, x in got.items()
                 if abs(x - want[key]) > (2**-23 * abs(want[key]) if key[0].startswith("probe/") else 0)}
        self.assertEqual(other, {})

    def killed_and_resumed(self, out: Path) -> Path:
        p = self.start(out, *ARGS, ON)
        self.wait_for_steps(p, out, 3 * UNIT + UNIT // 2)
        p.kill()
        p.wait()
        path, = event_files(out)
        path.write_bytes(path.read_bytes()[:-5])  # its last record is cut off
        return self.train(out, *ARGS, ON, "--resume")

    def test_same_numbers(self) -> None:
        plain = self.train("plain", *ARGS)
        self.assertEqual(event_files(plain), [])
        out = self.killed_and_resumed(Path("killed"))
        self.assert_same_run(plain, out)
        first, second = event_files(out)
        self.assertRegex(first.name, r"^events\.out\.tfevents\.\d{10}\..+$")
        scalars = of_events(out)
        self.assert_same_scalars(scalars, out)
        tags = {tag for tag, _ in scalars}
        self.assertLessEqual({"metrics/loss", "metrics/lr", "metrics/grad_norm", "metrics/tokens_per_s",
                              "metrics/val_loss", "probe/max", "probe/m2", "probe/att0", "probe/lambda_min"}, tags)
        self.assertEqual(sum(tag == "metrics/loss" for tag, _ in scalars), 6 * UNIT)

    def test_tensorboard_reads_it(self) -> None:
        try:
            reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
        except ImportError as e:
            raise unittest.SkipTest(f"the package tensorboard is not there: {e}") from None
        out = self.killed_and_resumed(Path("read"))
        events = reader.EventAccumulator(str(out), size_guidance={reader.SCALARS: 0}).Reload()
        got = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
        self.assert_same_scalars(got, out)

    def test_full_disk(self) -> None:
        """As with metrics.jsonl: a message, and the run goes on when there is space again."""
        out = Path("full")
        args = [f"train.steps={2 * UNIT}", "train.eval_every=0", "train.probe_every=0", "train.checkpoint_every=0"]
        limits = 4000, 4000
        said = self.error("train", "t.yaml", *args, ON, "--out", out,
                          preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits))
        self.assertTrue(re.fullmatch(r"cannot write full/events\.out\.tfevents\..*: File too large", said), said)
        self.train(out, *args, ON, "--resume")
        self.assert_same_scalars(of_events(out), out)


if __name__ == "__main__":
    common.main()
