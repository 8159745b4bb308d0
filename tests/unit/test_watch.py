"""The watchdog of the tests (.ci/watch.py): what it ends, what it lets be, exit codes, CPU time."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

WATCH = Path(__file__).resolve().parents[2] / ".ci" / "watch.py"


class Watch(unittest.TestCase):
    def run_watched(self, *command: str, idle: float = 2, cpu: float = 60) -> tuple[int, str]:
        done = subprocess.run([sys.executable, WATCH, "--idle", str(idle), "--cpu", str(cpu), *command],
                              capture_output=True, text=True)
        self.assertRegex(done.stderr.splitlines()[-1], r"^cpu \d+\.\d\d$")
        return done.returncode, done.stderr

    def test_exit_codes(self) -> None:
        for code, command in ((0, "exit 0"), (77, "exit 77"), (134, "kill -ABRT $$"), (137, "kill -KILL $$")):
            self.assertEqual(self.run_watched("sh", "-c", command)[0], code)

    def test_cpu_time(self) -> None:
        """That of grandchildren counts."""
        start = time.process_time()
        sum(range(10**7))
        took = time.process_time() - start
        _, said = self.run_watched("sh", "-c", f"{sys.executable} -c 'sum(range(10**7))'; true")
        self.assertGreater(float(said.split()[-1]), took / 4)

    def test_deadlock(self) -> None:
        """Ended with all that it started, also what is in a session of its own and no child of anybody."""
        said = self.run_watched("sh", "-c", "(setsid sleep 4321 &) ; sleep 4322", idle=1)
        self.assertEqual(said[0], 1)
        self.assertIn("watch.py: ended: nothing ran for 1 s", said[1])
        pids = re.findall(r"^watch.py:   (\d+) S .*sleep 432[12] $", said[1], re.M)
        self.assertEqual(len(pids), 3)  # the shell's command line has both
        for pid in pids:
            self.assertFalse(Path(f"/proc/{pid}").exists())

    def test_ignored_signals(self) -> None:
        """Started in the background or by nohup, a test can still be sent signals."""
        code = "import os, signal; os.kill(os.getpid(), signal.SIGHUP)"
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            self.assertEqual(self.run_watched(sys.executable, "-c", code)[0], 128 + signal.SIGHUP)
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_orphans(self) -> None:
        """One that ends is waited for at once: no zombie is left for a test that asks whether it lives."""
        code = ("import os, subprocess, time\n"
                "pid = int(subprocess.run('sleep .5 >/dev/null & echo $!', shell=True, capture_output=True).stdout)\n"
                "try:\n"
                "    while True:\n"
                "        os.kill(pid, 0)\n"
                "        time.sleep(.05)\n"
                "except ProcessLookupError:\n"
                "    pass\n")
        self.assertEqual(self.run_watched(sys.executable, "-c", code)[0], 0)

    def test_polling_is_no_progress(self) -> None:
        code, said = self.run_watched(sys.executable, "-c",
                                      "import subprocess\nsubprocess.run(['sleep', '600'], timeout=601)")
        self.assertEqual((code, said.count("nothing ran")), (1, 1))

    def test_work_is_progress(self) -> None:
        """Longer than --idle, at work all the time; and the same where work comes in short pieces."""
        code = "import time\nend = time.monotonic() + 4\nwhile time.monotonic() < end: {}"
        for what in ("pass", "sum(range(10**5)); time.sleep(.01)"):
            self.assertEqual(self.run_watched(sys.executable, "-c", code.format(what))[0], 0)

    def test_circles(self) -> None:
        code, said = self.run_watched(sys.executable, "-c", "while True: pass", cpu=1)
        self.assertEqual((code, said.count("it took 1 s of CPU time")), (1, 1))


if __name__ == "__main__":
    unittest.main()
