"""Training runs, a step at a time."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from ._lib import Error, check, ffi, lib, locked, owned, path_bytes, take_json, take_text
from .config import Config, Source
from .model import Model
from .probe import Probe

__all__ = ["Run", "Step", "train"]


class Step(dict[str, Any]):
    """A line of metrics.jsonl, whose figures are attributes too: step, loss, lr, grad_norm, tokens_per_s, gflops,
    seconds; where there was an evaluation val_loss; skipped of a step that the guard skipped."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"step {self.get('step')} has no {name}; it has {', '.join(self)}") from None


class Run:
    """A training run: iterate over its steps; train() gives one.

        run = sinklab.train("tiny.yaml", out="runs/tiny")
        for step in run:
            if step.step % 100 == 0:
                print(step.loss, run.probe()["m2"])

    Leaving the loop pauses the run, another `for step in run` goes on, and so does Ctrl-C: no step is half done. stop()
    saves a checkpoint and closes it; resume() opens it again from there. Given a folder it is a run as `sinklab train`
    makes it, to the same bits; without one nothing is written.
    """

    def __init__(self, config: Config, out: str | os.PathLike[str] | None, resume: bool, progress: bool | None) -> None:
        self.config = config
        self.out = None if out is None else os.fspath(out)
        self.result: dict[str, Any] | None = None
        self._progress = progress
        self._r: Any = None
        self._open(resume)

    def _open(self, resume: bool) -> None:
        folder = ffi.NULL if self.out is None else path_bytes(self.out)
        with locked():
            r = lib.sl_run_open(self.config._c, folder, resume)
            self._r = owned(r, lib.sl_run_close)
            self._threads = int(lib.sl_threads())

    def _running(self) -> Any:
        if self._r is None:
            raise Error("the run is closed; resume() opens it again, or train(..., resume=True)")
        return self._r

    @property
    def step(self) -> int:
        """Steps done."""
        return int(lib.sl_run_steps(self._running()))

    def __len__(self) -> int:
        return int(self.config["train.steps"])

    def __iter__(self) -> Iterator[Step]:
        with _Bar(len(self), self.step, self._progress) as bar:
            while (step := self._next()) is not None:
                bar.show(step)
                yield step
        if self.result is None:
            with locked(self._threads):
                self.result = json.loads(take_text(lib.sl_run_result(self._running())))

    def _next(self) -> Step | None:
        line = ffi.new("char **")
        with locked(self._threads):
            rc = lib.sl_run_step(self._running(), line)
            check(rc)
            return Step(take_json(line[0])) if rc else None

    def probe(self, profile: bool = False) -> Probe:
        """Sinks and outliers now, on validation windows, as a line of probe.jsonl has them."""
        with locked(self._threads):
            figures = take_json(lib.sl_run_probe(self._running(), profile))
        return Probe(figures, step=self.step)

    def model(self) -> Model:
        """A model with the weights of now, which the run does not change any more."""
        with locked(self._threads):
            s = lib.sl_model_shape(lib.sl_run_model(self._running()))
            m = Model(self.config, int(s.vocab), self.out or "", 1, int(s.seq))
            check(lib.sl_model_take(m._m, lib.sl_run_model(self._r)))
        return m

    def save(self) -> None:
        """A checkpoint of the steps done."""
        with locked(self._threads):
            check(lib.sl_run_save(self._running()))

    def stop(self) -> None:
        """Saves a checkpoint, where there is a folder, and closes the run."""
        if self._r is not None:
            if self.out is not None:
                self.save()
            self._close()

    def _close(self) -> None:
        with locked():
            ffi.release(self._r)
            self._r = None

    def resume(self) -> Run:
        """Goes on from the newest checkpoint of the folder, after stop()."""
        if self._r is None:
            self._open(True)
        return self

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.stop()
        elif self._r is not None:
            self._close()

    def __repr__(self) -> str:
        at = "closed" if self._r is None else f"step {self.step} of {len(self)}"
        return f"<sinklab.Run {self.out or 'without a folder'}: {at}>"


class _Bar:
    """A progress bar of tqdm's where that is installed and wanted: None is in a notebook or on a terminal."""

    def __init__(self, total: int, done: int, wanted: bool | None) -> None:
        self._bar: Any = None
        if wanted or (wanted is None and ("ipykernel" in sys.modules or sys.stderr.isatty())):
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, initial=done, unit="step")

    def show(self, step: Step) -> None:
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{step.loss:.3f}" if step.loss is not None else "-", refresh=False)
            self._bar.update()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def train(config: Source = None, out: str | os.PathLike[str] | None = None, *, resume: bool = False,
          init: str | os.PathLike[str] | None = None, progress: bool | None = None,
          keys: Mapping[str, Any] | None = None, **more: Any) -> Run:
    """Opens a training run: config as of Config; keys, and keyword arguments, go over it.

    out: the run folder; None: nothing is written. resume: goes on with the run in it. init: a run, a checkpoint or a
    model of others whose model and weights it begins with; its model's keys need not be given. progress: a bar; None:
    in notebooks and on terminals, where tqdm is installed.
    """
    over = {**(keys or {}), **more}
    c = Config(config, **over) if init is None else Config._with_init(path_bytes(init), config, over)
    return Run(c, out, resume, progress)
