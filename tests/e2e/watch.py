"""What is shown of a run: `train` on a terminal, and `watch`, which reads the files of another process as they are."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import termios
import unittest
from pathlib import Path

import common
from common import UNIT, stream

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, test: unittest.TestCase, *args: object, columns: int = 100,
                 env: dict[str, str] | None = None) -> None:
        self.master, self.slave = pty.openpty()
        test.addCleanup(os.close, self.master)
        test.addCleanup(os.close, self.slave)
        self.resize(columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [common.SINKLAB, *map(str, args)], stdin=self.slave, stdout=self.slave, stderr=self.slave,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=os.environ | {"TERM": "xterm", "LC_ALL": "C.UTF-8", "NO_COLOR": ""} | (env or {}))
        test.addCleanup(self.process.wait)
        test.addCleanup(self.process.kill)

    def resize(self, columns: int, rows: int = 24) -> None:
        """The program gets SIGWINCH, once."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def settings(self) -> list:
        return termios.tcgetattr(self.slave)

    def read_some(self) -> None:
        if select.select([self.master], [], [], 0.05)[0]:
            self.seen += os.read(self.master, 65536)

    def wait_for(self, text: bytes) -> bytes:
        """Forgets what came until the text; the program must not end before."""
        while text not in self.seen:
            ended = self.process.poll() is not None
            self.read_some()
            if ended and text not in self.seen:
                raise AssertionError(f"ended without {text!r}: {self.seen!r}")
        got, _, self.seen = self.seen.partition(text)
        return got

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def rest(self) -> bytes:
        """What it says to its end."""
        while self.process.poll() is None:
            self.read_some()
        while select.select([self.master], [], [], 0)[0]:
            self.read_some()
        return self.seen


class Run:
    """The folder of a run that this process says it trains."""

    def __init__(self, test: unittest.TestCase, path: str, config: Path) -> None:
        self.path = Path(path)
        self.path.mkdir()
        shutil.copy(config, self.path / "config.yaml")
        self.lock = os.open(self.path, os.O_RDONLY)
        test.addCleanup(self.end)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def end(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
        self.lock = -1

    def write(self, name: str, text: str) -> None:
        with open(self.path / name, "a") as f:
            f.write(text)

    def step(self, step: int, **more: object) -> None:
        self.write("metrics.jsonl", json.dumps({"step": step, "loss": 5 / step, "seconds": step / 10} | more) + "\n")


class Watch(common.EndToEnd):
    trained: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        subprocess.run([common.SINKLAB, "train", "t.yaml", "--out", "trained"], check=True, capture_output=True)
        cls.trained = Path("trained")

    def once(self, run: object) -> dict:
        return json.loads(self.sinklab("watch", run, "--once", "--json").stdout)

    def test_finished_run(self) -> None:
        metrics, probes = (common.lines(self.trained / f"{name}.jsonl") for name in ("metrics", "probe"))
        got = self.once(self.trained)
        want = {"run": "trained", "state": "finished", "step": 40, "steps": 40, "loss": metrics[-1]["loss"],
                "val_loss": metrics[-1]["val_loss"], "tokens_per_s": metrics[-1]["tokens_per_s"],
                "seconds": metrics[-1]["seconds"], "eta": None, "probe_step": 40, "m2": probes[-1]["m2"],
                "max": probes[-1]["max"], "unreadable_lines": 0}
        self.assertEqual(got.keys(), want.keys())
        for key, value in want.items():  # nine digits
            self.assertEqual(got[key], float(f"{value:.9g}") if isinstance(value, float) else value, key)
        lines = self.sinklab("watch", self.trained).stdout.decode().splitlines()
        self.assertEqual(len(lines), 1)
        self.assertRegex(lines[0], r"^finished: step 40/40 100%, loss \S+, validation loss \S+, M2 \S+, max \S+, "
                                   r"\S+ tokens/s, \S+ of training$")

    def test_states(self) -> None:
        out = Path("states")
        p = self.start(out, "train.steps=1000000", "train.eval_every=0", "train.probe_every=0")
        self.wait_for_steps(p, out, UNIT)
        running = self.once(out)
        self.assertEqual(running["state"], "running")
        self.assertGreaterEqual(running["step"], UNIT)
        self.assertGreater(running["eta"], 0)
        p.send_signal(signal.SIGINT)
        p.wait()
        ended = self.once(out)
        self.assertEqual(ended["state"], "ended")
        self.assertEqual(ended["step"], common.lines(out / "metrics.jsonl")[-1]["step"])
        self.assertIsNone(ended["eta"])
        self.error("train", "t.yaml", "--out", "stopped", "train.lr=100", "train.warmup=0", "train.clip_norm=0",
                   "train.guard_spike=0.01")
        self.assertEqual(self.once("stopped")["state"], "stopped")

    def test_looking_starts_no_quarrel(self) -> None:
        """A run that starts while others look at its folder is not told that another one trains there."""
        self.train("looked", "train.steps=0", "train.checkpoint_every=0")
        watchers = [subprocess.Popen(["sh", "-c", 'while "$0" watch looked --once; do :; done', common.SINKLAB],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
                    for _ in range(2)]
        for p in watchers:
            self.addCleanup(p.wait)
            self.addCleanup(os.killpg, p.pid, signal.SIGKILL)
        for _ in range(10):
            self.train("looked", "train.steps=0", "train.checkpoint_every=0", "--resume")

    def test_damaged_files(self) -> None:
        run = Run(self, "damaged", Path("t.yaml"))
        self.assertEqual((self.once("damaged")["step"], self.once("damaged")["state"]), (None, "running"))
        run.step(1)
        run.write("metrics.jsonl", '{"step": 2, "loss": 1e')
        self.assertEqual(self.once("damaged")["step"], 1)
        run.write("metrics.jsonl", '-1}\nnot JSON\n\0\xff\n[]\n{"step": "x"}\n')
        got = self.once("damaged")
        self.assertEqual((got["step"], got["loss"], got["unreadable_lines"]), (None, 0.1, 3))
        run.write("metrics.jsonl", '{"step": 3, "loss": "' + "x" * (5 << 20) + '"}\n')
        self.assertEqual(self.once("damaged")["unreadable_lines"], 4)
        run.step(4)
        os.mkfifo(run.path / "probe.jsonl")
        (run.path / "result.json").write_text('{"status": "fin')
        (run.path / "config.yaml").write_text("model: [")
        got = self.once("damaged")
        self.assertEqual((got["step"], got["steps"], got["m2"], got["state"]), (4, None, None, "running"))
        self.assertIn("4 lines cannot be read", self.sinklab("watch", "damaged", "--once").stdout.decode())

    def test_follows_in_lines(self) -> None:
        """Also when the files begin anew, as after --resume; the last line comes with the end of the run."""
        run = Run(self, "lines", Path("t.yaml"))
        run.step(30)
        p = subprocess.Popen([common.SINKLAB, "watch", "lines"], stdout=subprocess.PIPE)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        self.addCleanup(stream(p.stdout).close)
        first = stream(p.stdout).readline()
        self.assertTrue(first.startswith(b"running: step 30/40 75%, loss 0.1667, 3.0s of training, eta 1.0s"), first)
        other = run.path / "beside"
        other.write_text('{"step": 20, "loss": 0.25}\n{"step": 21, "loss')
        other.rename(run.path / "metrics.jsonl")
        run.write("metrics.jsonl", '": 0.5}\n')
        run.write("probe.jsonl", '{"step": 20, "m2": 7.5, "max": null}\n')
        run.end()
        *_, last = stream(p.stdout).read().splitlines()
        self.assertEqual(last, b"ended: step 21/40 52%, loss 0.5, M2 7.5")
        self.assertEqual(p.wait(), 0)

    def watch_on_terminal(self, name: str, env: dict[str, str] | None = None) -> tuple[Run, Terminal]:
        run = Run(self, name, Path("t.yaml"))
        for step in range(1, 9):
            run.step(step)
        t = Terminal(self, "watch", name, env=env)
        t.wait_for(ENTER)
        return run, t

    def assert_sane(self, t: Terminal, code: int = 0) -> bytes:
        """The program has ended, and the terminal is as it was."""
        rest = t.rest()
        self.assertEqual(t.process.returncode, code, rest)
        self.assertEqual(t.settings(), t.before)
        screen, leave, line = rest.rpartition(LEAVE)
        self.assertTrue(leave and b"\x1b[?25h" in screen and b"\x1b[?7h" in screen, rest)
        return line

    def test_screen(self) -> None:
        run, t = self.watch_on_terminal("screen")
        self.assertIn(b"screen: running", t.wait_for("loss             0.625    █".encode()))
        run.step(9)
        t.wait_for(b"loss             0.5556")
        self.assertNotEqual(t.settings(), t.before)
        t.press(b"x")  # is not shown and ends nothing
        t.resize(30)
        t.wait_for(ENTER)
        self.assertRegex(t.wait_for(b"q ends").decode(), r"loss             0.5556   █[▁-█]{3}\x1b")
        t.resize(100, 2)
        t.wait_for(ENTER)
        self.assertNotIn(b"loss", t.wait_for(b"\x1b[J"))
        t.press(b"q")
        line = self.assert_sane(t)
        self.assertTrue(line.startswith(b"running: step 9/40 22%, loss 0.5556"), line)

    def test_screen_in_ascii(self) -> None:
        _, t = self.watch_on_terminal("ascii", {"LC_ALL": "C"})
        t.wait_for(b"loss             0.625    #")
        t.press(b"q")
        self.assertTrue(self.assert_sane(t).isascii())

    def test_screen_ends_with_the_run(self) -> None:
        run, t = self.watch_on_terminal("ends")
        (run.path / "result.json").write_text('{"status": "finished"}')
        run.end()
        self.assertTrue(self.assert_sane(t).startswith(b"finished: "))

    def test_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            _, t = self.watch_on_terminal(number.name)
            t.wait_for(b"q ends")
            if number == signal.SIGINT:
                t.press(b"\x03")
            else:
                t.process.send_signal(number)
            self.assertTrue(self.assert_sane(t).startswith(b"running: "))

    def test_stop_and_go_on(self) -> None:
        _, t = self.watch_on_terminal("ctrl_z")
        t.wait_for(b"q ends")
        t.press(b"\x1a")
        t.wait_for(LEAVE)
        _, status = os.waitpid(t.process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        self.assertEqual(t.settings(), t.before)
        t.process.send_signal(signal.SIGCONT)
        t.wait_for(ENTER)
        t.wait_for(b"q ends")
        t.press(b"Q")
        self.assert_sane(t)

    def test_no_screen(self) -> None:
        run = Run(self, "dumb", Path("t.yaml"))
        run.step(1)
        run.end()
        self.assertEqual(Terminal(self, "watch", "dumb", env={"TERM": "dumb"}).rest(),
                         b"ended: step 1/40 2%, loss 5, 0.1s of training\r\n")


class TrainOnTerminal(common.EndToEnd):
    def test_curves(self) -> None:
        said = Terminal(self, "train", "t.yaml", "--out", "curves", "train.steps=200").rest().decode()
        last = said.rstrip().split("\r\x1b[K")[-1]
        self.assertRegex(last, r"^step 200/200 100% in \S+  loss \S+ +\x1b\[32m[▁-█]+\x1b\[0m"
                               r"  M2 \S+ +\x1b\[32m[▁-█]+\x1b\[0m  tok/s \S+ +\x1b\[32m[▁-█]+\x1b\[0m$")
        self.assertTrue(said.endswith("\r\n"))

    def test_plain_and_narrow(self) -> None:
        for name, columns, env in (("plain", 60, {"NO_COLOR": "1", "LC_ALL": "C"}), ("narrow", 20, {})):
            said = Terminal(self, "train", "t.yaml", "--out", name, "train.steps=200", columns=columns,
                            env=env).rest().decode()
            drawn = [line.rstrip("\r\n") for line in said.split("\r\x1b[K")[1:]]
            self.assertTrue(drawn)
            for line in drawn:
                self.assertRegex(line, r"^[ -~]+$")
                self.assertLess(len(line), columns)

    def test_interrupted(self) -> None:
        t = Terminal(self, "train", "t.yaml", "--out", "interrupted", "train.steps=1000000", "train.eval_every=0",
                     "train.probe_every=0")
        t.wait_for(b"step ")
        t.press(b"\x03")
        rest = t.rest().decode()
        self.assertEqual(t.process.returncode, 1)
        self.assertEqual(t.settings(), t.before)
        self.assertRegex(rest, r"\r\nsinklab: error: interrupted at step \d+; a checkpoint was saved, go on with "
                               r"--resume\r\n$")


if __name__ == "__main__":
    common.main()
