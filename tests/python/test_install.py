"""`pip install .` of what git knows, in an environment of its own: the installed package passes the model's tests.

Usage: test_install.py SINKLAB. It compiles the engine again, so that only `./check --all` runs it (setup "everything").
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(os.environ["SL_TESTS"]).parent


def run(*command: object, **kwargs: object) -> None:
    print("+", *command, flush=True)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(list(map(str, command)), check=True, env=env, **kwargs)  # type: ignore[call-overload]


def copy_sources(to: Path) -> None:
    """The files of the working tree, without what builds left in it."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT,
                            check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sinklab-install-") as temporary:
        folder = Path(temporary)
        copy_sources(folder / "source")
        run(sys.executable, "-m", "venv", folder / "venv")
        python = folder / "venv" / "bin" / "python"
        pins = ROOT / "experiments" / "requirements-python.txt"
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", pins, "-c",
            ROOT / "experiments" / "requirements.txt", f"{folder / 'source'}[notebook]")
        module = "import sinklab._sinklab as m; print(m.__file__)"
        found = subprocess.run([python, "-c", module], check=True, cwd=folder, capture_output=True, text=True).stdout
        assert str(folder) in found and ".abi3." in found, found
        run(python, ROOT / "tests" / "python" / "test_model.py", Path(sys.argv[1]).resolve(), cwd=folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
