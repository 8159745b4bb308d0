"""`sinklab report`, which finds the page's program and a Python for it, `new-study`, and both in an installation.

Run with .venv's python: python3 tests/e2e/front.py BUILD/src/sinklab [-v]
"""

import os
import shlex
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import common

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENTS = REPOSITORY / "experiments"
# A Python that says what it was called with.
SAYS = '#!/bin/sh\n[ "$1" = -c ] && exit 0\nprintf "<%s>" "$0" "$@"\n'
LACKS = "#!/bin/sh\nexit 1\n"


class Report(common.EndToEnd):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        subprocess.run([common.SINKLAB, "train", "t.yaml", "--out", "run"], check=True, capture_output=True)

    def installation(self, name: str) -> Path:
        """bin/sinklab and share/sinklab, with no Python of its own."""
        folder = self.folder / name
        (folder / "bin").mkdir(parents=True)
        shutil.copy(common.SINKLAB, folder / "bin/sinklab")
        share = folder / "share/sinklab/experiments"
        share.mkdir(parents=True)
        for file in ("report.py", "requirements.txt"):
            shutil.copy(EXPERIMENTS / file, share)
        return folder

    def call(self, folder: Path, *args: str, python: str = "") -> subprocess.CompletedProcess:
        """The program of an installation where python3, if there is one, is this script."""
        path = folder / "path"
        path.mkdir(exist_ok=True)
        if python:
            (path / "python3").write_text(python)
            (path / "python3").chmod(0o755)
        return subprocess.run([folder / "bin/sinklab", *args], capture_output=True, text=True,
                              env=os.environ | {"PATH": str(path)})

    def test_page(self) -> None:
        p = self.sinklab("report", "run", "--title", "A title, <b>", "--png", "p.png", cwd=self.folder)
        self.assertTrue(p.stdout.decode().endswith("report: report.html\n"))
        self.assertIn("A title, &lt;b&gt;", Path("report.html").read_text())
        self.assertTrue(Path("p.png").read_bytes().startswith(b"\x89PNG"))

    def test_exit_code_and_message_are_the_reports(self) -> None:
        p = self.sinklab("report", "none", code=2)
        self.assertRegex(p.stderr.decode(), "^report.py: error: none")

    def test_arguments(self) -> None:
        """As they are: no shell, and no run is taken for a flag."""
        folder = self.installation("arguments")
        p = self.call(folder, "report", "a b", "$(touch x)", "--out=o;o", "--title", "'", "--", "--png", python=SAYS)
        called = folder / "share/sinklab/experiments/report.py"
        words = [folder / "path/python3", "-B", called, "--out", "o;o", "--title", "'", "--", "a b", "$(touch x)",
                 "--png"]
        self.assertEqual((p.returncode, p.stdout), (0, "".join(f"<{word}>" for word in words)), p.stderr)

    def test_own_python_goes_first(self) -> None:
        folder = self.installation("own")
        own = folder / "share/sinklab/.venv/bin/python"
        own.parent.mkdir(parents=True)
        own.write_text(SAYS)
        own.chmod(0o755)
        self.assertIn("/.venv/bin/python><-B>", self.call(folder, "report", "run", python=LACKS).stdout)

    def error_of(self, folder: Path, python: str) -> str:
        p = self.call(folder, "report", "run", python=python)
        self.assertEqual((p.returncode, p.stdout, p.stderr.count("\n")), (1, "", 1), p.stderr)
        return p.stderr.removeprefix("sinklab: error: report: ")

    def test_missing(self) -> None:
        folder = self.installation("missing")
        self.assertRegex(self.error_of(folder, ""), "^cannot start python3: No such file or directory; it wants Python")
        self.assertRegex(self.error_of(folder, LACKS), r"^python3 has no matplotlib, or is older than 3\.11; install "
                         r"that \(apt-get install python3-matplotlib\), .*/experiments/requirements\.txt, or run")
        (folder / "share/sinklab/experiments/report.py").unlink()
        if not Path("/usr/local/share/sinklab").exists():  # where else it looks
            self.assertRegex(self.error_of(folder, SAYS), "^there is no experiments/report.py, neither in .*; build "
                             "sinklab in its source tree, or install it with `meson install`$")


class NewStudy(common.EndToEnd):
    def test_runs_as_it_is(self) -> None:
        Path("experiments/studies").mkdir(parents=True)
        self.sinklab("new-study", "mine")
        p = subprocess.run([sys.executable, "-B", "-m", "sinkstudy.run.run_studies", "experiments/studies/mine",
                            "--runs", "results", "--sinklab", common.SINKLAB, "--cores", "2"], capture_output=True,
                           text=True)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        self.assertRegex(p.stdout, r"  same_loss  \w")
        self.assertTrue(Path("results/studies/mine/quick/report.html").exists())

    def test_nothing_stays_of_a_failure(self) -> None:
        """A disk that takes no file."""
        p = subprocess.run(["sh", "-c", 'ulimit -f 0; exec "$0" new-study ./broken', common.SINKLAB],
                           capture_output=True, text=True)
        self.assertEqual(p.returncode, 1, p.stderr)
        self.assertFalse(Path("broken").exists())


class Installation(common.EndToEnd):
    """What `meson install` puts into a folder, used from there."""

    installed: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        build = Path(common.SINKLAB).parents[1]
        subprocess.run([*shlex.split(os.environ["SL_MESON"]), "install", "-C", build, "--no-rebuild", "--quiet",
                        "--destdir", cls.folder / "root"], check=True, capture_output=True)
        cls.installed = cls.folder / "root" / os.environ["SL_PREFIX"].lstrip("/")

    def setUp(self) -> None:
        self.env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # its python3

    def program(self, *args: str) -> str:
        return subprocess.run([self.installed / "bin/sinklab", *args], check=True, capture_output=True, text=True,
                              env=self.env).stdout

    def test_program(self) -> None:
        self.program("train", "t.yaml", "--out", "run")
        self.assertTrue(self.program("report", "run", "--out", "installed.html").endswith("report: installed.html\n"))
        self.program("new-study", "./study")
        for file in ("study.yaml", "README.md"):
            self.assertEqual(Path("study", file).read_bytes(), (EXPERIMENTS / "templates/study" / file).read_bytes())

    def test_manual_and_completions(self) -> None:
        for file, args in (("man/man1/sinklab.1", ["man"]),
                           ("bash-completion/completions/sinklab", ["completion", "bash"]),
                           ("zsh/site-functions/_sinklab", ["completion", "zsh"]),
                           ("fish/vendor_completions.d/sinklab.fish", ["completion", "fish"])):
            self.assertEqual((self.installed / "share" / file).read_text(), self.program(*args))

    def test_debian_packages(self) -> None:
        """Each file that is installed belongs to one of debian/*.install, and nothing there is without files."""
        patterns = [line for path in sorted((REPOSITORY / "debian").glob("*.install"))
                    for line in path.read_text().split()]
        self.assertTrue(patterns)
        packed: list[Path] = []
        for pattern in patterns:
            found = [file for path in self.installed.glob(pattern.removeprefix("usr/"))
                     for file in ([path] if not path.is_dir() else path.rglob("*")) if not file.is_dir()]
            self.assertTrue(found, pattern)
            packed += found
        self.assertEqual(sorted(packed), sorted(f for f in self.installed.rglob("*") if not f.is_dir()))

    @unittest.skipUnless(shutil.which("pkg-config"), "no pkg-config")
    def test_library(self) -> None:
        """A program on it, as another project would build one."""
        found, = self.installed.rglob("pkgconfig/sinklab.pc")
        env = self.env | {"PKG_CONFIG_PATH": str(found.parent), "PKG_CONFIG_SYSROOT_DIR": str(self.folder / "root"),
                          "LD_LIBRARY_PATH": str(found.parents[1])}
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "sinklab"], check=True, capture_output=True,
                               text=True, env=env).stdout.split()
        subprocess.run([*shlex.split(os.environ["SL_CC"]), str(REPOSITORY / "tests/api/embed.c"), "-o", "embed", *flags,
                        "-lm"], check=True)
        p = subprocess.run(["./embed", "embed.run"], check=True, capture_output=True, text=True, env=env)
        self.assertTrue(p.stdout.startswith(self.program("--version").strip()), p.stdout)


if __name__ == "__main__":
    common.main()
