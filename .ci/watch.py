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
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
# Tests send these: what ignores them (nohup, a shell's &, Python itself) is not to be handed down.
SENT = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGUSR1,
        signal.SIGCHLD]
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


def reap(child: int) -> int | None:
    """Waits for what has ended: the test (then its wait status) and orphans that were adopted, which would be zombies
    for the test that looks for them."""
    status = None
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = ended[1] if ended[0] == child else status
    except ChildProcessError:
        pass
    return status


def watch(child: int, idle: float, most: float) -> tuple[int | None, str]:
    """Waits for the test: its wait status, or the reason why it has to be ended. Rounds are counted, not a clock: while
    the whole machine stands still, so does this."""
    interval = min(5.0, idle / 4)
    still, before, look = 0.0, 0.0, time.monotonic() + interval
    while True:
        status = reap(child)
        if status is not None:
            return status, ""
        if time.monotonic() < look:
            signal.sigtimedwait([signal.SIGCHLD], max(0.0, look - time.monotonic()))
            continue
        found = tree(os.getpid())
        now = used() + ticks(found) / TICK
        still = 0.0 if waits(found) or now - before > BUSY * interval else still + interval
        before, look = now, time.monotonic() + interval
        if still >= idle:
            return None, f"nothing ran for {idle:g} s"
        if now > most:
            return None, f"it took {most:g} s of CPU time"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--idle", type=float, default=300)
    parser.add_argument("--cpu", type=float, default=3600)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    child = os.posix_spawnp(options.command[0], options.command, os.environ, setsigmask=before, setsigdef=SENT)
    status, why = watch(child, options.idle, options.cpu)
    if status is None:
        end(os.getpid(), why)
        reap(child)
    print(f"cpu {used():.2f}", file=sys.stderr, flush=True)
    if status is None:
        return 1
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
