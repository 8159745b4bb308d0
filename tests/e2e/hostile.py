"""Runs among other programs: links, closed streams, damaged files, a second process, signals, a folder that goes."""

import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import time
import unittest
from pathlib import Path
from typing import Any

import common

LONG = ("train.steps=1000000", "train.eval_every=0", "train.probe_every=0", "train.checkpoint_every=1000000")


class Hostile(common.EndToEnd):
    def begin(self, out: str, *keys: str, **kwargs: Any) -> subprocess.Popen:
        """A training; returns when it has written a few lines of metrics."""
        p = subprocess.Popen([common.SINKLAB, "train", "t.yaml", "--out", out, *keys], stdout=subprocess.DEVNULL,
                             **{"stderr": subprocess.PIPE, **kwargs})
        metrics = Path(out, "metrics.jsonl")
        while p.poll() is None and not (metrics.exists() and metrics.stat().st_size > 500):
            time.sleep(0.02)
        return p

    def end(self, p: subprocess.Popen, code: int = 1) -> str:
        text = p.communicate(timeout=300)[1]
        self.assertEqual(p.returncode, code, text)
        return text.decode() if text else ""

    def steps(self, out: str) -> list[int]:
        return [line["step"] for line in common.lines(Path(out, "metrics.jsonl"))]

    def half_done(self, out: str) -> Path:
        """A run of 40 steps whose last checkpoint is that of step 20."""
        self.train(out, "train.checkpoint_every=20", "train.keep_checkpoints=5")
        shutil.rmtree(Path(out, "checkpoints", "00000040"))
        return Path(out, "checkpoints")

    # ---- links

    def test_links_are_not_followed(self) -> None:
        checkpoints, other = self.half_done("links"), Path("other")
        other.mkdir()
        (other / "precious").write_text("x")
        for name in ("00000003", "00000007.tmp", "00000009.old"):
            (checkpoints / name).symlink_to(other.resolve())
        self.train("links", "train.checkpoint_every=20", "train.keep_checkpoints=5", "--resume")
        self.assertEqual([p.name for p in other.iterdir()], ["precious"])
        self.assertTrue((checkpoints / "00000040" / "DONE").exists())

    def test_a_link_in_the_way_is_refused(self) -> None:
        checkpoints, other = self.half_done("way"), Path("elsewhere")
        other.mkdir()
        (other / "precious").write_text("x")
        (checkpoints / "00000040").symlink_to(other.resolve())
        said = self.error("train", "t.yaml", "train.checkpoint_every=20", "train.keep_checkpoints=5", "--out", "way",
                          "--resume")
        self.assertIn("move it away", said)
        self.assertEqual([p.name for p in other.iterdir()], ["precious"])

    # ---- files of a run

    def test_closed_streams_are_not_files_of_the_run(self) -> None:
        command = f"exec '{common.SINKLAB}' train t.yaml --out closed <&- >&- 2>&-"
        self.assertEqual(subprocess.run(["bash", "-c", command], timeout=300).returncode, 0)
        self.assertEqual(self.steps("closed"), list(range(1, 41)))

    def test_a_damaged_line_is_kept_aside(self) -> None:
        self.half_done("damaged")
        metrics = Path("damaged", "metrics.jsonl")
        lines = metrics.read_text().splitlines(keepends=True)
        metrics.write_text("".join(lines[:7]) + "\0garbage\n" + "".join(lines[8:]))
        p = self.sinklab("train", "t.yaml", "train.checkpoint_every=20", "train.keep_checkpoints=5", "--out", "damaged",
                         "--resume")
        self.assertIn(b"cannot be read", p.stderr)
        self.assertEqual(self.steps("damaged"), [s for s in range(1, 41) if s != 8])
        self.assertEqual(Path("damaged", "metrics.jsonl.damaged").read_text(), "\0garbage\n")

    def test_somebody_elses_results_are_not_written_over(self) -> None:
        Path("foreign").mkdir()
        Path("foreign", "result.json").write_text("precious")
        self.assertIn("holds result.json", self.error("train", "t.yaml", "--out", "foreign"))
        self.assertEqual(Path("foreign", "result.json").read_text(), "precious")

    def test_a_run_that_cannot_start_leaves_no_folder(self) -> None:
        self.error("train", "t.yaml", "data.corpus=none.txt", "--out", "unborn", code=2)
        self.assertFalse(Path("unborn").exists())

    def test_of_two_at_once_one_is_refused(self) -> None:
        for i in range(3):
            both = [subprocess.Popen([common.SINKLAB, "train", "t.yaml", "--out", f"race{i}"], stderr=subprocess.PIPE,
                                     stdout=subprocess.DEVNULL) for _ in range(2)]
            said = [p.communicate(timeout=300)[1].decode() for p in both]
            self.assertEqual(sorted(p.returncode for p in both), [0, 1], said)
            refused = said[0 if both[0].returncode else 1]
            self.assertRegex(refused, "another process is training there|already holds a run")
            self.assertEqual(self.steps(f"race{i}"), list(range(1, 41)))

    def test_a_folder_that_goes_away_is_not_made_anew(self) -> None:
        p = self.begin("moved", *LONG)
        Path("moved").rename("renamed")
        self.assertIn("removed or renamed", self.end(p))
        self.assertFalse(Path("moved").exists())

    # ---- signals

    def test_signals_save_a_checkpoint(self) -> None:
        for s in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            p = self.begin(f"signal{s}", *LONG)
            p.send_signal(s)
            self.assertIn("a checkpoint was saved", self.end(p))
            self.assertEqual(len(common.complete(Path(f"signal{s}"))), 1)

    def test_a_closed_pipe_saves_a_checkpoint(self) -> None:
        p = self.begin("pipe", *LONG)
        assert p.stderr
        p.stderr.close()
        p.stderr = None
        p.send_signal(signal.SIGPIPE)  # as the next line of progress would
        p.wait(timeout=300)
        self.assertEqual(p.returncode, 1)
        self.assertEqual(len(common.complete(Path("pipe"))), 1)

    def test_nohup_is_respected(self) -> None:
        p = self.begin("nohup", *LONG, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        lines = len(self.steps("nohup"))
        p.send_signal(signal.SIGHUP)
        while p.poll() is None and len(Path("nohup", "metrics.jsonl").read_text().splitlines()) < lines + 20:
            time.sleep(0.02)
        self.assertIsNone(p.poll())
        p.send_signal(signal.SIGTERM)
        self.end(p)

    def test_a_long_step_is_left_between_batches(self) -> None:
        p = subprocess.Popen([common.SINKLAB, "train", "t.yaml", "--out", "long", "train.accumulate=65536",
                              "train.batch=1"], stderr=subprocess.PIPE)
        while p.poll() is None and not Path("long", "probe.jsonl").exists():
            time.sleep(0.02)
        time.sleep(0.2)
        p.send_signal(signal.SIGINT)
        self.assertIn("interrupted at step 0", self.end(p))
        self.assertEqual([c.name for c in common.complete(Path("long"))], ["00000000"])

    # ---- data

    def write_bin(self, name: str, tokens: int) -> Path:
        Path(name).write_bytes(struct.pack(f"<{tokens}H", *(i * 7 % 251 for i in range(tokens))))
        return Path(name)

    def test_a_bin_that_is_truncated_is_an_error(self) -> None:
        data = self.write_bin("cut.bin", 4_000_000)
        p = self.begin("cut", "data.corpus=cut.bin", "data.tokenizer=ids:256", *LONG)
        os.truncate(data, 4096)
        self.assertIn("truncated", self.end(p))

    def test_a_bin_that_changes_is_an_error(self) -> None:
        data = self.write_bin("changing.bin", 100_000)
        p = self.begin("changing", "data.corpus=changing.bin", "data.tokenizer=ids:256", *LONG)
        with data.open("r+b") as f:
            f.seek(50_000)
            f.write(b"\1\0" * 5000)
        p.send_signal(signal.SIGTERM)
        self.assertIn("changed while it was in use", self.end(p))
        self.assertEqual(common.complete(Path("changing")), [])

    def test_thousands_of_added_tokens_with_one_beginning(self) -> None:
        """The longest one is taken at each place, and finding it takes no look at all of them."""
        path = Path(os.environ["SL_TESTS"], "unit", "tokenizer", "bpe500.json")
        tokenizer = json.loads(path.read_text())
        rng = random.Random(1)
        texts: set[str] = set()
        while len(texts) < 20_000:
            texts.add("<" * 40 + "".join(rng.choices("ab<", k=rng.randint(1, 12))))
        first = 1 + max(tokenizer["model"]["vocab"].values())
        ids = {text: first + i for i, text in enumerate(sorted(texts))}
        tokenizer["added_tokens"] += [{"id": i, "content": text, "special": True, "normalized": False}
                                      for text, i in ids.items()]
        Path("many.json").write_text(json.dumps(tokenizer))
        text = "".join(rng.choice(("<" * 39, "a", "<<" * 30, rng.choice(sorted(texts)))) for _ in range(300))
        Path("many.txt").write_text(text)
        self.sinklab("tokenize", "--tokenizer", "bpe:many.json", "many.txt", "--out", "many.bin")
        data = Path("many.bin").read_bytes()[1024:]
        found = [i for i in struct.unpack(f"<{len(data) // 2}H", data) if i >= first]
        wanted, at = [], 0
        while at < len(text):
            longest = next((text[at:at + n] for n in range(52, 40, -1) if text[at:at + n] in ids), None)
            if longest:
                wanted.append(ids[longest])
            at += len(longest) if longest else 1
        self.assertGreater(len(wanted), 50)
        self.assertEqual(found, wanted)

    # ---- checkpoints

    def test_a_checkpoint_is_read_while_its_run_trains(self) -> None:
        p = self.begin("busy", "train.checkpoint_every=1", "train.keep_checkpoints=1", "train.steps=1000000",
                       "train.eval_every=0", "train.probe_every=0")
        for _ in range(25):
            self.sinklab("eval", "busy", "data.corpus=corpus.txt", "--windows", "1")
        p.send_signal(signal.SIGTERM)
        self.end(p)

    def test_a_run_knows_where_its_text_is(self) -> None:
        run = self.train("home").resolve()
        Path("away").mkdir()
        here = self.sinklab("eval", run, "--json").stdout
        self.assertEqual(self.sinklab("eval", run, "--json", cwd="away").stdout, here)
        self.assertEqual(self.sinklab("eval", Path("checkpoints", "00000040"), "--json", cwd=run).stdout, here)
        self.assertIn("neither a prepared corpus", self.error("eval", run, "data.corpus=none", cwd="away", code=2))

    def foreign(self, name: str, shape: list[int], **changes: object) -> Path:
        """A Llama of 32 channels whose embedding has this shape."""
        folder = Path(name)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(
            {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
             "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": shape[0]} | changes))
        size = 4 * shape[0] * shape[1]
        tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
        head = json.dumps({"model.embed_tokens.weight": tensor}).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(size))
        return folder

    @unittest.skipIf("SINKLAB_SLOW" in os.environ, "sanitizers take all addresses there are")
    def test_shapes_are_looked_at_before_memory_is_taken(self) -> None:
        limit = 600 << 20
        said = self.error("eval", self.foreign("empty", [1_500_000, 0]), "data.tokenizer=ids:1500000",
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        self.assertIn("has shape [1500000, 0]", said)

    def test_a_configuration_that_contradicts_the_tensors(self) -> None:
        self.assertIn("another vocab_size", self.error("eval", self.foreign("vocab", [257, 32], vocab_size=300)))
        self.assertIn("model_type", self.error("eval", self.foreign("type", [257, 32], model_type="qwen3")))

    # ---- the machine

    def test_too_many_threads_are_said(self) -> None:
        p = self.sinklab("train", "t.yaml", "threads=200", "train.steps=0", "--out", "threads")
        self.assertIn(b"hardware threads", p.stderr)

    def test_a_small_stack(self) -> None:
        command = f"exec '{common.SINKLAB}' train t.yaml threads=3 --out stack"
        hard = subprocess.run(["bash", "-c", "ulimit -s 64; " + command], capture_output=True, timeout=300)
        self.assertEqual((hard.returncode, b"ulimit -s" in hard.stderr), (1, True), hard.stderr)
        soft = subprocess.run(["bash", "-c", "ulimit -S -s 64; " + command], capture_output=True, timeout=300)
        self.assertEqual(soft.returncode, 0, soft.stderr)


if __name__ == "__main__":
    common.main()
