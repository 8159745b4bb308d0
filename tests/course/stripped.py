"""Holds that the notebooks in git have no outputs: nbstripout would change none."""
import pathlib
import subprocess
import sys

LESSONS = sorted((pathlib.Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
sys.exit(subprocess.run([sys.executable, "-m", "nbstripout", "--verify", *LESSONS]).returncode)
