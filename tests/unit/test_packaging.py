"""debian/ and Containerfile say what the other files of the project say, and can be read by the tools they are for."""

import re
import shutil
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of the packages that .ci/setup.sh installs: what only tests and yardsticks want, and what each build of a package has.
ONLY_TESTS = {"check", "libopenblas-openmp-dev", "libsleef-dev"}
ALWAYS_THERE = {"gcc", "libc6-dev", "ninja-build"}  # of Debian's builds: the last comes with meson


def fields(paragraph: str) -> dict[str, str]:
    """Of a paragraph of debian/control."""
    return {m[1]: m[2] for m in re.finditer(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", paragraph, re.M)}


class Packaging(unittest.TestCase):
    def setUp(self) -> None:
        self.source, *self.packages = map(fields, (ROOT / "debian/control").read_text().split("\n\n"))
        found = re.search(r"version: '(.+)'", (ROOT / "meson.build").read_text())
        assert found
        self.version = found[1]
        engine = re.search(r"^ENGINE_PACKAGES=\(([^)]+)\)", (ROOT / ".ci/setup.sh").read_text(), re.M)
        assert engine
        self.needs = set(engine[1].split()) - ONLY_TESTS

    def test_version(self) -> None:
        changelog = (ROOT / "debian/changelog").read_text()
        self.assertTrue(changelog.startswith(f"sinklab ({self.version}) "))

    @unittest.skipUnless(shutil.which("dpkg-parsechangelog"), "no dpkg-dev")
    def test_changelog_parses(self) -> None:
        p = subprocess.run(["dpkg-parsechangelog", "-l", ROOT / "debian/changelog"], capture_output=True, text=True)
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        self.assertIn(f"\nVersion: {self.version}\n", p.stdout)

    def test_build_dependencies(self) -> None:
        wants = set(re.findall(r"[a-z][\w.+-]+", re.sub(r"\([^)]*\)", "", self.source["Build-Depends"])))
        self.assertEqual(wants - {"debhelper-compat"}, self.needs - ALWAYS_THERE)

    def test_packages(self) -> None:
        names = {package["Package"] for package in self.packages}
        self.assertEqual(names, {path.stem for path in (ROOT / "debian").glob("*.install")})
        soversion = re.search(r"soversion: '(\d+)'", (ROOT / "src/meson.build").read_text())
        assert soversion
        self.assertIn(f"libsinklab{soversion[1]}", names)
        self.assertTrue((ROOT / "debian/rules").stat().st_mode & 0o100)

    def test_licence(self) -> None:
        said = re.sub(r"^ \.?", "", (ROOT / "debian/copyright").read_text(), flags=re.M)
        _, licence = (ROOT / "LICENSE").read_text().split("\n\nPermission")
        self.assertIn("Permission" + licence.rstrip(), said)

    def test_containerfile(self) -> None:
        """It builds with what a build needs, and runs with each library that the program links."""
        build, run = (ROOT / "Containerfile").read_text().split("\n\nFROM ")
        self.assertLessEqual(self.needs, set(re.findall(r"\S+", build)))
        for package in ("libgomp1", "libjansson4", "libnuma1", "libxxhash0", "libyaml-0-2", "python3-matplotlib"):
            self.assertIn(package, run.split())


if __name__ == "__main__":
    unittest.main()
