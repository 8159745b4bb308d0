"""Where things are in the repository: the package is used from its source tree, in which it stands."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the engine finds corpora from here
EXPERIMENTS = ROOT / "experiments"
STUDIES = EXPERIMENTS / "studies"
