"""Pages in Markdown: their commands and what these print, their files, links, anchors and paths.

What stands in a code block of a page is one of these; anything else is a PageError.
  indented                   commands, each on a line, behind a `\\`, or a loop over several
  ```console                 commands behind `$ `, each followed by what it prints; a line `...` stands for any
                             lines, and `...` at the end of a line for any rest
  ```yaml PATH               the file of this path (any word in the place of yaml)
  ```python                  something else (any word but those for a shell)
A comment in front of a block, on a line of its own, says what a test has to know:
  <!-- not run: WHY -->      only that the programs, flags and keys exist is tested
  <!-- shape: WHY -->        a number of the output stands for any number
What a program writes stands between <!-- WORD --> and <!-- end -->.
"""
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


class PageError(Exception):
    """The page is not what this can read; the message has page and line."""


@dataclass(frozen=True)
class Command:
    where: str  # page:line
    text: str
    output: tuple[str, ...] | None = None  # None: the page does not show it
    shape: bool = False
    run: bool = True


@dataclass(frozen=True)
class File:
    where: str
    path: str
    text: str


COMMENT = re.compile(r"<!-- (not run|shape): .*\S -->")
MADE = re.compile(r"<!-- [a-z]+ -->")


@dataclass(frozen=True)
class Block:
    line: int  # of the first line of code
    info: str | None  # of the fence; None: indented
    lines: list[str]
    mark: str  # not run, shape or nothing


def blocks(name: str, text: str) -> list[Block]:
    """The code blocks of a page. Indented ones begin behind an empty line, as Markdown has it."""
    found: list[Block] = []
    lines, mark, i = text.splitlines(), "", 0
    while i < len(lines):
        line, start = lines[i], i
        if line.startswith("```"):
            i += 1
            while i < len(lines) and lines[i] != "```":
                i += 1
            if i == len(lines):
                raise PageError(f"{name}:{start + 1}: the fence is not closed")
            found.append(Block(start + 2, line[3:], lines[start + 1:i], mark))
            mark = ""
        elif line.startswith("    ") and (i == 0 or not lines[i - 1]):
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i]):
                i += 1
            code = [row[4:] for row in lines[start:i]]
            i -= 1
            found.append(Block(start + 1, None, code, mark))
            mark = ""
        elif line and mark:
            raise PageError(f"{name}:{start + 1}: a code block must follow the comment before it")
        elif match := COMMENT.fullmatch(line):
            mark = match[1]
        elif line.startswith("<!--") and not MADE.fullmatch(line):
            raise PageError(f"{name}:{start + 1}: no comment that a test knows (tests/docs/pages.py)")
        i += 1
    return found


def complete(text: str) -> bool:
    """Is this whole for a shell, not the beginning of a loop or of a line that goes on?"""
    if text.endswith("\\"):
        return False
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0


def commands_of_lines(name: str, block: Block) -> list[Command]:
    found, text, start = [], "", block.line
    for number, line in enumerate(block.lines, block.line):
        if not text:
            start = number
        text += line
        if complete(text):
            if text.strip():
                found.append(Command(f"{name}:{start}", text, None, False, block.mark != "not run"))
            text = ""
        else:
            text += "\n"
    if text:
        raise PageError(f"{name}:{start}: bash cannot read this: {text.splitlines()[0]}")
    return found


def commands_of_console(name: str, block: Block) -> list[Command]:
    found: list[Command] = []
    for number, line in enumerate(block.lines, block.line):
        if line.startswith("$ "):
            found.append(Command(f"{name}:{number}", line[2:], (), block.mark == "shape", block.mark != "not run"))
        elif found and found[-1].text.endswith("\\"):
            last = found[-1]
            found[-1] = Command(last.where, f"{last.text}\n{line}", (), last.shape, last.run)
        elif not found:
            raise PageError(f"{name}:{number}: output before the first `$ `")
        else:
            last = found[-1]
            found[-1] = Command(last.where, last.text, (*(last.output or ()), line), last.shape, last.run)
    return found


def contents(name: str, text: str) -> list[Command | File]:
    """Commands and files of a page in their order."""
    found: list[Command | File] = []
    for block in blocks(name, text):
        words = (block.info or "").split()
        if block.info is None:
            found += commands_of_lines(name, block)
        elif block.info == "console":
            found += commands_of_console(name, block)
        elif len(words) == 2:
            found.append(File(f"{name}:{block.line}", words[1], "\n".join(block.lines) + "\n"))
        elif not words or words[0] in ("sh", "bash", "shell"):
            raise PageError(f"{name}:{block.line - 1}: commands stand indented, or in a fence ```console; other fences "
                            "name their language (tests/docs/pages.py)")
    return found


# ---- output

NUMBER = re.compile(r"[-+]?(\d[\d,]*)?\.?\d+(e[-+]?\d+)?")


def pattern(line: str, shape: bool) -> str:
    """A regular expression of a line of output as the page shows it."""
    rest = line.endswith("...")
    text = line.removesuffix("...") if rest else line.rstrip()
    if not shape:
        return re.escape(text) + (".*" if rest else "")
    parts, at = [], 0
    for match in NUMBER.finditer(text):
        parts += [re.escape(text[at:match.start()]), NUMBER.pattern]
        at = match.end()
    parts.append(re.escape(text[at:]))
    # Columns are as wide as their numbers.
    return r"\s*" + re.sub(r"(\\ )+", r"\\s+", "".join(parts).lstrip("\\ ")) + (".*" if rest else r"\s*")


def fault_of_output(want: tuple[str, ...], got: list[str], shape: bool) -> str | None:
    """What is wrong with an output, or None. A line `...` stands for any lines, as few as will do."""
    at, skipping = 0, False
    for line in want:
        if line == "...":
            skipping = True
            continue
        matcher = re.compile(pattern(line, shape))
        while skipping and at < len(got) and not matcher.fullmatch(got[at].rstrip()):
            at += 1
        if at == len(got) or not matcher.fullmatch(got[at].rstrip()):
            return f"the page has `{line}` where this came: `{got[at] if at < len(got) else 'nothing more'}`"
        at, skipping = at + 1, False
    if not skipping and at < len(got):
        return f"the page lacks `{got[at]}`"
    return None


# ---- links

def prose(text: str) -> list[tuple[int, str]]:
    """Lines outside of code blocks, with their numbers; a list's indented paragraphs are none."""
    found, fence, code, before = [], False, False, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fence = not fence
        elif not fence:
            code = line.startswith("    ") and (code or not before) or code and not line
            if not code:
                found.append((number, line))
        before = line
    return found


def anchors(text: str) -> set[str]:
    """Those that GitHub gives the headings."""
    found: dict[str, int] = {}
    for _, line in prose(text):
        if match := re.match(r"#+ +(.*)", line):
            name = re.sub(r"[^\w\- ]", "", match[1].lower()).replace(" ", "-")
            count = found.get(name, 0)
            found[name] = count + 1
            if count:
                found[f"{name}-{count}"] = 1
    return set(found)


def links(text: str) -> list[tuple[int, str]]:
    """Targets of links and pictures with their lines; a link may break over two lines."""
    body = "\n".join(line for _, line in prose(text))
    numbers = [number for number, _ in prose(text)]
    return [(numbers[body.count("\n", 0, match.start(1))], match[1])
            for match in re.finditer(r"\]\(([^()\s]+)\)", body)]


def code_words(text: str) -> list[tuple[int, str]]:
    """What stands in backticks, with its line."""
    return [(number, match[1]) for number, line in prose(text) for match in re.finditer(r"`([^`]+)`", line)]


def page_paths(root: Path) -> list[Path]:
    """The pages whose commands are run, in the order of reading."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md")), root / "CONTRIBUTING.md"]
