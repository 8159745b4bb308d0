"""The tests of the pages find what is wrong with a page: commands that fail, other outputs, dead links, paths and
flags."""
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

import commands
import links
import pages

PAGE = """# A page

Text with `echo 9`, which is no command.

    echo one    # a comment
    for i in 1 2; do
        echo $i >>made.txt
    done
    test "$(cat made.txt)" = "1
    2" && grep -q two said.txt

```text said.txt
two
```

```console
$ printf 'a 1.5\\nb\\nc\\n'
a 1.5
...
c
```
"""


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.root = Path(made.name)

    def file(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)


class Reading(unittest.TestCase):
    def test_commands_files_and_outputs(self) -> None:
        first, loop, test, said, console = pages.contents("p.md", PAGE)
        assert isinstance(loop, pages.Command) and isinstance(test, pages.Command)
        assert isinstance(console, pages.Command)
        self.assertEqual(first, pages.Command("p.md:5", "echo one    # a comment"))
        self.assertEqual((loop.where, loop.text.splitlines()[-1]), ("p.md:6", "done"))
        self.assertEqual(test.where, "p.md:9")
        self.assertEqual(said, pages.File("p.md:13", "said.txt", "two\n"))
        self.assertEqual((console.where, console.output), ("p.md:17", ("a 1.5", "...", "c")))

    def test_a_command_goes_on_behind_a_backslash(self) -> None:
        command, = pages.contents("p.md", "```console\n$ echo a \\\n    b\na b\n```\n")
        self.assertEqual(command, pages.Command("p.md:2", "echo a \\\n    b", ("a b",)))

    def test_marks(self) -> None:
        text = ("<!-- tally -->\n\nmade\n\n<!-- end -->\n\n<!-- not run: it is long -->\n\n    a\n    b\n\n"
                "<!-- shape: luck -->\n\n```console\n$ c\n1\n```\n\n    d\n")
        found = [(c.text, c.run, c.shape) for c in pages.contents("p.md", text) if isinstance(c, pages.Command)]
        self.assertEqual(found, [("a", False, False), ("b", False, False), ("c", True, True), ("d", True, False)])

    def test_pages_that_say_nothing_clear(self) -> None:
        for text, fault in (("```sh\nls\n```\n", "p.md:1: commands stand indented"),
                            ("```\nls\n```\n", "p.md:1: commands stand indented"),
                            ("```console\nls\n```\n", "p.md:2: output before"),
                            ("a\n\n```console\n$ ls\n", "p.md:3: the fence is not closed"),
                            ("\n    for i in 1; do\n", "p.md:2: bash cannot read"),
                            ("<!-- not run: why -->\ntext\n", "p.md:2: a code block must follow"),
                            ("<!-- not run -->\n\n    ls\n", "p.md:1: no comment"),
                            ("<!-- made of runs -->\n\n    ls\n", "p.md:1: no comment"),
                            ("<!-- notrun: why -->\n\n    ls\n", "p.md:1: no comment")):
            with self.subTest(text), self.assertRaisesRegex(pages.PageError, f"^{fault}"):
                pages.contents("p.md", text)


class Output(unittest.TestCase):
    def fault(self, want: str, got: str, shape: bool = False) -> str | None:
        return pages.fault_of_output(tuple(want.splitlines()), got.splitlines(), shape)

    def test_the_same(self) -> None:
        for want, got, shape in (("a\nb", "a\nb", False), ("a...", "a b c", False), ("...", "", False),
                                 ("...\nb\n...", "a\nb\nc", False), ("n   1.5e-3 x", "n  -20 x", True),
                                 ("loss   4.57", "loss          3.1", True),
                                 ("1,234 of [2, 3]", "7 of [.5, 60]", True)):
            with self.subTest(want):
                self.assertIsNone(self.fault(want, got, shape))

    def test_other(self) -> None:
        for want, got, shape in (("a\nb", "a", False), ("a", "a\nb", False), ("a 1", "a 2", False), ("", "a", False),
                                 ("...\nb", "a\nc", False), ("...\nb", "b\nc", False), ("n 1", "n -", True),
                                 ("n 1", "m 1", True), ("a...", "b", False), ("1 of 2", "1 for 2", True)):
            with self.subTest(want):
                self.assertIsNotNone(self.fault(want, got, shape))


class Commands(Folder):
    def faults(self, text: str) -> list[str]:
        return commands.faults_of_page("p.md", text, self.root)

    def test_a_page_that_is_right(self) -> None:
        self.file("said.txt", "two\n")
        self.assertEqual(self.faults(PAGE), [])
        self.assertEqual((self.root / "made.txt").read_text(), "1\n2\n")

    def test_a_command_that_fails(self) -> None:
        fault, = self.faults("text\n\n    true\n    echo why; false\n    touch behind\n")
        self.assertEqual(fault, "p.md:4: echo why; false: exit code 1\nwhy\n")
        self.assertFalse((self.root / "behind").exists())

    def test_a_command_that_fails_within_another(self) -> None:
        for command in ("false | cat", "for i in 1 2; do test $i = 2; done", "false; true"):
            with self.subTest(command):
                fault, = self.faults(f"\n    {command}\n")
                self.assertIn(f"p.md:2: {command}: exit code 1", fault)

    def test_another_output(self) -> None:
        fault, = self.faults("```console\n$ true\n$ echo 1\n2\n```\n")
        self.assertEqual(fault, "p.md:3: echo 1: the page has `2` where this came: `1`")

    def test_what_is_not_run_must_exist(self) -> None:
        self.file("tool.py", "import argparse\np = argparse.ArgumentParser()\np.add_argument('--much')\n"
                             "p.parse_args()\n")
        mark = "<!-- not run: why -->\n\n    "
        self.assertEqual(self.faults(mark + "python3 ./tool.py --much 3 && ./tool.py\n"), [])
        for command, fault in (("python3 ./tool.py --more", "^p.md:3: .*: python3 ./tool.py --help has no --more$"),
                               ("python3 ./tool.py --mu", "has no --mu"),
                               ("true; ./gone.sh", "there is no ./gone.sh")):
            with self.subTest(command):
                self.assertRegex(self.faults(mark + command + "\n")[0], fault)


class Links(Folder):
    def setUp(self) -> None:
        super().setUp()
        self.file("README.md", "# A\n\n[docs](docs/README.md)\n")
        self.file("docs/README.md", "# Docs\n\n[a](a.md), [its part](a.md#what-it-is), [top](../README.md#a)\n")
        self.file("docs/a.md", "# A\n\n## What it is?\n\n`src/a.c`, `src/{a,b}.c`, `src/name.c`, `src/NAME.c`\n")
        self.file("src/a.c", "")
        self.file("src/b.c", "")

    def faults(self) -> list[str]:
        return links.check(self.root, sorted(self.root.rglob("*.md")))

    def test_pages_that_are_right(self) -> None:
        self.assertEqual(self.faults(), [])

    def test_faults(self) -> None:
        for page, text, fault in (
                ("docs/a.md", "[b](b.md)", r"docs/a.md:\d+: b.md: there is no b.md"),
                ("docs/a.md", "[b](#gone)", r"docs/a.md:\d+: #gone: no heading"),
                ("docs/a.md", "[two\nlines](gone.md)", r"docs/a.md:\d+: gone.md: there is no"),
                ("README.md", "![b](b.png)", r"README.md:\d+: b.png: there is no"),
                ("README.md", "[s](src/a.c#anchor)", r"README.md:\d+: src/a.c#anchor: no heading"),
                ("docs/a.md", "`src/{a,c}.c`", r"docs/a.md:\d+: `src/{a,c}.c`: there is no src/c.c"),
                ("docs/a.md", "`./gone`", r"docs/a.md:\d+: `./gone`: there is no gone"),
                ("docs/a.md", "x" * 121, r"docs/a.md:\d+: 121 columns"),
                ("docs/b.md", "# B", "docs/README.md: docs/b.md is not in the index"),
                ("README.md", "a\n" * 4500, r"README.md: \d+ bytes, at most 9000")):
            with self.subTest(text[:30]):
                before = (self.root / page).read_text() if (self.root / page).exists() else None
                self.file(page, (before or "") + "\n" + text + "\n")
                found = self.faults()
                self.assertEqual(len(found), 1, found)
                self.assertRegex(found[0], fault)
                if before is None:
                    (self.root / page).unlink()
                else:
                    self.file(page, before)

    def test_code_is_no_prose(self) -> None:
        self.file("docs/a.md", "# A\n\n## What it is?\n\n    [b](b.md) `src/c.c`\n\n```text\n[b](b.md)\n```\n")
        self.assertEqual(self.faults(), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
