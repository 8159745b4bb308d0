"""Runs the commands of README.md, CONTRIBUTING.md and docs/ as they stand there, page by page, and compares what they
print with what the page shows.

Usage: commands.py SINKLAB [unittest arguments, like Pages.test_docs_norms_md]

Each page gets a folder of its own, a copy of the repository as ./quickstart leaves it: build/src/sinklab, a text, runs
and a model, all of them small. `sinklab` there is a script that trains and times a small model for a few steps and
hands everything else on. tests/docs/pages.py has what a page may say.
"""
import importlib.util
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, ClassVar

import pages

ROOT = Path(__file__).resolve().parents[2]
# Keys in front of a page's own, and behind them.
SMALL = "model.layers=3 model.dim=32 model.heads=2 model.ffn=64 model.seq=64 threads=1"
FEW = "train.steps=3 train.batch=2 train.warmup=1 train.eval_windows=2"
SCRIPT = f"""#!/bin/sh
case $1 in
train) shift; config=$1; shift; exec {{sinklab}} train "$config" {SMALL} "$@" {FEW} ;;
bench) case " $* " in *" --steps "*) ;; *) set -- "$@" --steps 1 ;; esac
    case $2 in bench-* | eval) set -- "$@" {SMALL.rpartition(" ")[0]} train.batch=1 ;; esac ;;
esac
exec {{sinklab}} "$@"
"""
COPIED = ["README.md", "data", "experiments"]  # what commands write into; the rest is linked
PACKAGES = ["matplotlib", "ruff", "scipy", "snakemake"]  # some of those that commands use: .venv as ./check makes it


def text() -> str:
    rng = random.Random(1)
    words = "the cat sat on a mat and saw an old dog run far away from its house by the sea".split()
    return "".join(" ".join(rng.choices(words, k=9)) + ".\n" for _ in range(400))


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    """In bash, as a user would: both streams, the program on the PATH, no terminal."""
    env = {**os.environ, "PATH": f"{folder / 'build' / 'src'}:{os.environ['PATH']}", "OMP_WAIT_POLICY": "passive",
           "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg"}
    return subprocess.run(["bash", "-e", "-o", "pipefail", "-c", command], cwd=folder, env=env, text=True,
                          errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def like_clone(folder: Path) -> None:
    """What is in the repository: copies of what commands may write into, links to the rest."""
    folder.mkdir()
    made = shutil.ignore_patterns("*.png", "__pycache__", ".snakemake", "corpora", "models")
    for path in ROOT.iterdir():
        if path.name in (".git", "runs") or path.name.startswith("build"):
            continue
        if path.name == ".venv":
            (folder / path.name).mkdir()
            for part in path.iterdir():
                (folder / path.name / part.name).symlink_to(part)
        elif path.name not in COPIED:
            (folder / path.name).symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=made)
        else:
            shutil.copy(path, folder)


def like_quickstart(folder: Path, sinklab: Path) -> None:
    """What ./quickstart leaves besides. The hashes of the packages say that they are in .venv, and a build.ninja
    without rules is a build in which nothing is left to do: no command installs or builds."""
    for name in ("requirements.txt", "requirements-study.txt"):
        stamp = folder / ".venv" / f"{name}.sha256"
        stamp.unlink(missing_ok=True)
        stamp.write_text(must(f"sha256sum experiments/{name}", folder))
    (folder / "build" / "src").mkdir(parents=True)
    (folder / "build" / "build.ninja").write_text("build src/sinklab: phony\n")
    (folder / "build" / "options").write_text("")
    script = folder / "build" / "src" / "sinklab"
    script.write_text(SCRIPT.format(sinklab=shlex.quote(str(sinklab))))
    script.chmod(0o755)
    corpus = folder / "data" / "corpora" / "treasury"
    corpus.mkdir(parents=True)
    (corpus / "train.txt").write_text(text())
    (corpus / "val.txt").write_text(text()[:2000])
    (folder / "data" / "models").mkdir()
    for arm in ("baseline", "gated_norm"):
        must(f"sinklab train experiments/quickstart/{arm}.yaml --out runs/quickstart/{arm}", folder)
    must("sinklab export runs/quickstart/baseline --format gguf --out data/models/smollm2-135m.gguf", folder)


def must(command: str, folder: Path) -> str:
    done = run(command, folder)
    if done.returncode:
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


# ---- commands that are not run

def simple(command: str) -> list[list[str]]:
    """The words of each program that a command starts."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if re.fullmatch(r"[;&|]+", word):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def fault_of_usage(command: str, folder: Path) -> str | None:
    """What a command asks for that there is not: a program of the repository, a flag, a key of the engine."""
    for words in simple(command):
        start = 2 if words[0].startswith("python") else 1
        program = words[start - 1]
        if "/" in program and not program.startswith("build/") and not (folder / program).exists():
            return f"there is no {program}"
        ours = program == "sinklab" or program.endswith((".py", "/run", "/check"))
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        verb = words[1] if program == "sinklab" else ""
        if ours and flags:
            asked = shlex.join([*words[:start], *([verb] if verb else []), "--help"])
            usage = must(asked, folder)
            for flag in flags:
                if not re.search(rf"(?<!\S){flag}(?![\w-])", usage.replace("[", " ").replace(",", " ")):
                    return f"{asked} has no {flag}"
        for word in words[1:] if program == "sinklab" else []:
            key, equals, _ = word.partition("=")
            if equals and not key.startswith("-") and run(f"sinklab config {shlex.quote(key)}", folder).returncode:
                return f"there is no key {key}"
    return None


# ---- pages

def faults_of_page(name: str, body: str, folder: Path) -> list[str]:
    """Runs a page in a folder; what went wrong, each with page:line. It ends at the first command that fails: those
    behind it may build on it."""
    faults = []
    for item in pages.contents(name, body):
        if isinstance(item, pages.File):
            (folder / item.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / item.path).write_text(item.text)
        elif not item.run:
            if fault := fault_of_usage(item.text, folder):
                faults.append(f"{item.where}: {item.text}: {fault}")
        else:
            done = run(item.text, folder)
            if done.returncode:
                return [*faults, f"{item.where}: {item.text}: exit code {done.returncode}\n{done.stdout[-2000:]}"]
            if item.output is not None:
                fault = pages.fault_of_output(item.output, done.stdout.splitlines(), item.shape)
                faults += [f"{item.where}: {item.text}: {fault}"] if fault else []
    return faults


class Pages(unittest.TestCase):
    sinklab: ClassVar[Path]
    folder: ClassVar[Path]
    maxDiff = None

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="sinklab-docs-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        like_clone(cls.folder / "start")
        like_quickstart(cls.folder / "start", cls.sinklab)

    def page(self, path: Path) -> None:
        name = path.relative_to(ROOT).as_posix()
        folder = self.folder / "page"
        shutil.copytree(self.folder / "start", folder, symlinks=True)
        self.addCleanup(shutil.rmtree, folder)
        faults = faults_of_page(name, path.read_text(encoding="utf-8"), folder)
        self.assertEqual(faults, [], "\n" + "\n".join(faults))


def test_of(path: Path) -> Any:
    return lambda self: self.page(path)


for path_of_page in pages.page_paths(ROOT):
    title = re.sub(r"\W", "_", path_of_page.relative_to(ROOT).as_posix())
    setattr(Pages, f"test_{title}", test_of(path_of_page))


if __name__ == "__main__":
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"no {', '.join(missing)}: `. .ci/setup.sh; python_env study lint` makes .venv", file=sys.stderr)
        sys.exit(77)
    Pages.sinklab = Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
