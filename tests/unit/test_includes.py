"""The scripts that hold the sources to a form (.ci/includes.py, .ci/lines.py), on made-up trees."""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ci"))

import includes
import lines


class Tree(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="sinklab-source-")
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def file(self, path: str, *text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text("\n".join(text) + "\n", encoding="utf-8")


class Includes(Tree):
    def test_down(self) -> None:
        """Own folder, folders below it, tables, sinklab.h, headers of the system; by path or beside the file."""
        self.file("src/base/err.h", "#include <stdio.h>")
        self.file("src/tables/rows.inc", "ROW(a)")
        self.file("src/sinklab.h")
        self.file("src/ops/norm/rows.h", '#include "base/err.h"')
        self.file("src/ops/norm/gated.c", '#include "ops/norm/rows.h"', '#include "rows.h"',
                  '#include "simd/kernels.h"', '#include "tables/rows.inc"', '#include "sinklab.h"',
                  '// #include "cli/none.h"')
        self.assertEqual(includes.check(self.root), [])

    def test_up(self) -> None:
        self.file("src/base/err.c", "", '  #  include "ops/op.h"')
        self.file("src/ops/deep/x.inc", '#include "../../model/model.h"')
        self.file("src/model/model.h")
        self.assertEqual(includes.check(self.root),
                         ['src/base/err.c:2: "ops/op.h" goes up: ops is above base',
                          'src/ops/deep/x.inc:1: "../../model/model.h" goes up: model is above ops'])

    def test_unknown(self) -> None:
        """A new folder wants a floor, whoever includes it; tables include nothing."""
        self.file("src/new/x.c", '#include "base/err.h"')
        self.file("src/cli/x.c", '#include "new/x.h"')
        self.file("src/tables/x.inc", '#include "base/err.h"')
        self.assertEqual(includes.check(self.root),
                         ['src/cli/x.c:1: "new/x.h": no floor for new; give it one in .ci/includes.py',
                          "src/new/x.c: no floor for src/new; give it one in .ci/includes.py",
                          'src/tables/x.inc:1: "base/err.h": tables include nothing'])


class Lines(Tree):
    def test_columns(self) -> None:
        """Columns are characters; 120 are allowed; other kinds of files are not looked at."""
        self.file("a.c", "x" * 120, "é" * 120, "", "y" * 121)
        self.file("meson.build", "z" * 130)
        self.file("README.md", "w" * 500)
        self.assertEqual(lines.check(self.root, ["a.c", "meson.build", "README.md"]),
                         ["a.c:4: 121 columns, at most 120", "meson.build:1: 130 columns, at most 120"])


if __name__ == "__main__":
    unittest.main()
