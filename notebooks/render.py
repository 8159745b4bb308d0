"""Executes lessons and writes their pages: one HTML file each that needs nothing from outside, formulas included (they
are plain text).

    notebooks/render [--out FOLDER] [LESSON ...]

LESSON is a number. A cell that fails ends the work: its lesson, number and error are printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert.exporters import HTMLExporter
from pygments.formatters import HtmlFormatter

from sinkstudy.report.page import document, write_whole

HERE = Path(__file__).resolve().parent
STYLE = """
body { max-width: 940px; }
p, li, blockquote { max-width: none; }
p code, li code, td code { overflow-wrap: anywhere; }
pre { overflow-x: auto; margin: .4rem 0; padding: .6rem .8rem; font-size: .84rem; line-height: 1.4; }
.input_area pre { background: #f6f6f3; }
.output_area pre { border-left: 3px solid var(--rule); }
.output_area { overflow-x: auto; }
.rendered_html th, .rendered_html td { text-align: left; white-space: normal; padding-left: 0; }
.rendered_html > table { display: block; overflow-x: auto; }
blockquote { margin: .6rem 1rem; font-size: 1.05rem; }
figure { margin: .8rem 0; max-width: 720px; }
details { border-left: 3px solid #009E73; padding-left: .8rem; }
.anchor-link, .prompt { display: none; }
"""


class LessonError(Exception):
    """A lesson failed; the message says which, where and why."""


def lessons() -> dict[int, Path]:
    return {int(path.name[:2]): path for path in sorted(HERE.glob("[0-9][0-9]_*.ipynb"))}


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells gave; no cell has a time limit."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", coalesce_streams=True,
                            resources={"metadata": {"path": str(HERE)}})
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        name, cell = failed_cell(notebook, error)
        raise LessonError(f"{path.name}, cell {cell}: {name}") from None
    return notebook


def failed_cell(notebook: nbformat.NotebookNode, error: Exception) -> tuple[str, int]:
    """What happened, with the line, and in which cell (counted from 1, text included)."""
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return f"{output.ename}: {output.evalue}\n\n{cell.source}\n", number
    run = [number for number, cell in enumerate(notebook.cells, 1) if cell.get("execution_count")]
    return f"{type(error).__name__}: {error}", (run[-1] + 1) if run else 1


def drop_progress(notebook: nbformat.NotebookNode) -> None:
    """Progress bars belong to the moment. They come through stderr, or as widgets, which want a server's scripts."""
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"
                            and "application/vnd.jupyter.widget-view+json" not in output.get("data", {})]


def write_page(notebook: nbformat.NotebookNode, path: Path) -> None:
    drop_progress(notebook)
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(HERE)], exclude_input_prompt=True,
                            exclude_output_prompt=True, anchor_link_text="")
    body, _ = exporter.from_notebook_node(notebook)
    title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    page = document(title, [body], STYLE + colours)
    write_whole(path, lambda part: part.write_text(page, encoding="utf-8"))


def write_index(pages: dict[str, str], path: Path) -> None:
    rows = [f'<li><a href="{name}">{title}</a></li>' for name, title in pages.items()]
    page = document("Sinks in eight lessons", ["<h1>Sinks in eight lessons</h1><ul>", *rows, "</ul>"], STYLE)
    write_whole(path, lambda part: part.write_text(page, encoding="utf-8"))


def cpu_seconds() -> float:
    """Of this process and the kernels it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def render(numbers: list[int], out: Path) -> None:
    known, pages = lessons(), {}
    for number in numbers:
        path, start, before = known[number], time.monotonic(), cpu_seconds()
        notebook = execute(path)
        page = out / path.with_suffix(".html").name
        write_page(notebook, page)
        pages[page.name] = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        spent = f"{time.monotonic() - start:.0f} s, {cpu_seconds() - before:.0f} s of processors"
        print(f"{path.stem}: {spent}", flush=True)
    if len(numbers) == len(known):
        write_index(pages, out / "index.html")


def main() -> int:
    parser = argparse.ArgumentParser(prog="notebooks/render", description="Executes lessons and writes their pages.")
    parser.add_argument("lessons", metavar="LESSON", type=int, nargs="*", help="numbers; default: all")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=HERE.parent / "runs/notebooks",
                        help="where the pages go; default: runs/notebooks")
    args = parser.parse_args()
    unknown = sorted(set(args.lessons) - set(lessons()))
    if unknown:
        parser.error(f"there is no lesson {unknown[0]}; there are {', '.join(map(str, lessons()))}")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        render(args.lessons or list(lessons()), args.out)
    except LessonError as error:
        print(f"notebooks/render: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
