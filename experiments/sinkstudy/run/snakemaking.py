"""Starting Snakemake and the steps of its workflow. What they say goes to a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil

from sinkstudy.places import EXPERIMENTS

HERE = Path(__file__).resolve().parent
INTERRUPTED = 130
POLL = 0.3  # seconds


class Watcher(Protocol):
    def look(self) -> None: ...


class Stopped(Exception):
    """A signal asked for the end."""


def stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


@dataclass
class Maker:
    workflow: Path
    folder: Path  # Snakemake keeps its records there
    log: Path
    cores: int
    slurm: bool = False
    held: int | None = None  # the lock, which Snakemake holds too, so that it outlives a killed runner

    def command(self, target: str) -> list[str]:
        """The store's lock stands for Snakemake's own, which a kill would leave behind; failures' files are the
        runner's to judge; files' times don't count but for pages."""
        where = ["--workflow-profile", str(EXPERIMENTS / "profiles" / "slurm"), "--executor", "slurm", "--local-cores",
                 str(self.cores)]
        return [sys.executable, "-m", "snakemake", target, "--snakefile", str(HERE / "Snakefile"),
                "--directory", str(self.folder), "--config", f"workflow={self.workflow}",
                *(where if self.slurm else ["--cores", str(self.cores)]),
                "--keep-going", "--keep-incomplete", "--rerun-incomplete", "--nolock", "--rerun-triggers", "mtime",
                "--scheduler", "greedy", "--nocolor"]

    def run(self, target: str, watch: Watcher | None = None) -> int:
        """Its exit code. After SIGINT or SIGTERM it is asked to stop, running steps save what they have, and the code
        is INTERRUPTED."""
        old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        env = os.environ | {"XDG_CACHE_HOME": str(self.folder / ".cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            with open(self.log, "w", encoding="utf-8") as log:
                process = subprocess.Popen(self.command(target), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           env=env,
                                           pass_fds=[self.held] if self.held is not None else [])
            return self.wait(process, watch)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def wait(self, process: subprocess.Popen[bytes], watch: Watcher | None) -> int:
        try:
            while process.poll() is None:
                if watch:
                    watch.look()
                time.sleep(POLL)
            if watch:
                watch.look()
            return process.returncode
        except Stopped:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            interrupt(process)
            return INTERRUPTED


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Asks every process below to stop, and waits. From a terminal they were asked already; twice does no harm."""
    try:
        below = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        below = []
    for one in below:
        try:
            one.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            pass
    process.wait()
    psutil.wait_procs(below, timeout=60)  # training saves before it ends


def job(workflow: Path, log: Path, *args: str) -> int:
    """A step of the workflow without Snakemake."""
    with open(log, "w", encoding="utf-8") as out:
        return subprocess.run([sys.executable, "-B", "-m", "sinkstudy.run.job", str(workflow), *args],
                              stdin=subprocess.DEVNULL,
                              stdout=out, stderr=out).returncode


def lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def last_line(log: Path) -> str:
    return next((line.strip() for line in reversed(lines(log)) if line.strip()), "it said nothing")


def reason(log: Path) -> str:
    """The line of a log that tells most: a step's own error, else what Snakemake calls one."""
    said = lines(log)
    for mark in ("prepare.py: ", "train_bpe.py: ", "job.py: ", "Error"):
        for line in reversed(said):
            if mark in line and not line.startswith(("    ", "Error in rule")):
                return line.strip()
    return last_line(log)
