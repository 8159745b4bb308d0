"""What the lessons share: how figures look, and where the models are.

Figures and pages look like those of the reports: figures.py and page.py of experiments/sinkstudy/report.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.figure import Figure

from sinkstudy.places import ROOT
from sinkstudy.report.figures import COLOURS, STYLE  # noqa: F401
from sinkstudy.report.page import picture

plt.rcParams.update(STYLE)
SMALL = ROOT / "notebooks/models/residual-sink.gguf"  # 1.3 M parameters, bytes, trained as experiments/quickstart
CORPUS = ROOT / "data/corpora/treasury"  # `./data/prepare.py treasury`; start and render see to it
REAL = ROOT / "data/models/smollm2-135m.gguf"


def show(figure: Figure, caption: str) -> None:
    """Shows a figure with its caption and closes it; the caption is its text for those who can't see it, too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    display(HTML(picture(buffer.getvalue(), caption, caption)))


def real_model() -> tuple[Path, bool]:
    """The real model's file and True, fetched if need be (93 MB); where it can't be had, the small one's and False."""
    fetch = subprocess.run([sys.executable, ROOT / "data/fetch_model.py", "smollm2-135m"], capture_output=True,
                           text=True)
    if fetch.returncode == 0:
        return REAL, True
    print(fetch.stderr.strip(), "Going on with the small model; what is said about SmolLM2 can't be seen in it.",
          sep="\n")
    return SMALL, False
