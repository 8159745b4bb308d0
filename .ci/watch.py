#!/usr/bin/env python3
"""Runs a test and ends it when it makes no progress, for no time limit holds on a machine that is busy with other
things.

Usage: watch.py [--idle SECONDS] [--cpu SECONDS] PROGRAM [ARGUMENT ...]; meson puts it in front of every test
(meson.build).

No progress: for --idle seconds (300) no process of the test's tree used the CPU, waited for it, or waited for a disk. A
deadlock looks like this; a test that has to wait for its turn does not. A test that runs in circles is ended after
--cpu seconds (3600) of CPU time, which other work on the machine hardly changes. Exit code: the test's, 128 + N where
signal N ended it, 1 where this did. The last line on standard error is `cpu SECONDS`: what the test and all that it
started took (.ci/count.py reads it).
"""
import argparse
import ctypes
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
TICK = os.sysconf("SC_CLK_TCK")
# Of one core, in an interval: a process that only looks now and then whether another has ended stays below it.
BUSY = 0.05


def stat(path: pathlib.Path) -> list[str]:
    """The fields of a /proc/.../stat from the third on (the second may hold spaces); none if the process is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def tree(root: int) -> dict[int, list[str]]:
    """Descendants of a process with their stat. Orphans count: this process adopts them."""
    rows = {int(p.name): stat(p / "stat") for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()}
    found: dict[int, list[str]] = {}
    parents = {root}
    while parents:
        children = {pid: row for pid, row in rows.items() if row and int(row[1]) in parents and pid not in found}
        found |= children
        parents = set(children)
    return found


def ticks(found: dict[int, list[str]]) -> int:
    """User and system time of processes and of the children that they have waited for."""
    return sum(int(value) for row in found.values() for value in row[11:15])


def waits(found: dict[int, list[str]]) -> bool:
    """A thread runs or waits for a core (R) or for a disk (D)."""
    threads = (path for pid in found for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"))
    return any(row[:1] in (["R"], ["D"]) for row in map(stat, threads))


def describe(found: dict[int, list[str]]) -> str:
    lines = []
    for pid, row in found.items():
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        lines.append(f"watch.py:   {pid} {row[0]} {command[:200]}")
    return "\n".join(lines)


def used() -> float:
    """CPU seconds of the children that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def end(root: int, why: str) -> None:
    found = tree(root)
    print(f"watch.py: ended: {why}\n{describe(found)}", file=sys.stderr, flush=True)
    while found:  # those that a killed one had just started are found by the next look
        for pid, row in found.items():
            if row[0] != "Z":
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(0.05)
        found = {pid: row for pid, row in tree(root).items() if row[0] != "Z"}


def reap() -> None:
    """Orphans that were adopted, all of them ended."""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass


def watch(child: "subprocess.Popen[bytes]", idle: float, most: float) -> str:
    """Waits for the test; the reason if it has to be ended. Rounds are counted, not a clock: while the whole machine
    stands still, so does this."""
    interval = min(5.0, idle / 4)
    still, before = 0.0, 0
    while True:
        try:
            child.wait(interval)
            return ""
        except subprocess.TimeoutExpired:
            pass
        found = tree(os.getpid())
        now = ticks(found)
        # A process that ends takes its time along until its parent has waited for it.
        still = 0.0 if waits(found) or abs(now - before) > BUSY * interval * TICK else still + interval
        before = now
        if still >= idle:
            return f"nothing ran for {idle:g} s"
        if now > most * TICK:
            return f"it took {most:g} s of CPU time"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--idle", type=float, default=300)
    parser.add_argument("--cpu", type=float, default=3600)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(options.command)
    why = watch(child, options.idle, options.cpu)
    if why:
        end(os.getpid(), why)
        child.wait()
        reap()
    print(f"cpu {used():.2f}", file=sys.stderr, flush=True)
    return 1 if why else child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main())
