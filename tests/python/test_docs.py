"""The Python package: its doctests, and every block of docs/python.md, one after the other."""
import doctest
import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path

ROOT = Path(os.environ["SL_TESTS"]).parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import common
import sinklab


class Docs(common.EndToEnd):
    def test_doctests(self) -> None:
        tried = 0
        for module in pkgutil.iter_modules(sinklab.__path__, "sinklab."):
            if module.name not in ("sinklab._sinklab", "sinklab.lm_eval_model"):
                result = doctest.testmod(importlib.import_module(module.name))
                self.assertEqual(result.failed, 0, module.name)
                tried += result.attempted
        self.assertEqual(doctest.testmod(sinklab).failed, 0)
        self.assertGreater(tried, 4)

    def test_page(self) -> None:
        blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)
        self.assertGreater(len(blocks), 3)
        names: dict[str, object] = {}
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec"), names)


if __name__ == "__main__":
    common.main()
