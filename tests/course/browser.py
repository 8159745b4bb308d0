"""Loads pages in a headless Chromium, as wide as a desk's window and as a phone: no console error, nothing fetched from
elsewhere, no sideways scrolling on the phone, every picture there. Screenshots stay in FOLDER/screenshots.

Usage: browser.py FOLDER SINKLAB: the lessons in the folder, and two pages of experiments/report.py that it puts there:
about a run of a few steps, and about the small model of the lessons. Exit code 77 where there is no Chromium (Ubuntu's
is a snap).
"""
import base64
import json
import pathlib
import shutil
import subprocess
import sys
import unittest

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FOLDER, SINKLAB = (pathlib.Path(argument).resolve() for argument in (sys.argv.pop(1), sys.argv.pop(1)))
ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = ROOT / "data/corpora/treasury/val.txt"
WIDTHS = 1280, 390
# Of the page that is loaded: how far it is wider than the window, and pictures that are broken.
WIDER = "return document.documentElement.scrollWidth - window.innerWidth"
WIDEST = """return [...document.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.tagName + "." + e.className).slice(0, 5)"""
BROKEN = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"


def start():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def write_report(name, of):
    subprocess.run([sys.executable, ROOT / "experiments/report.py", of, "--out", FOLDER / name], check=True,
                   stdout=subprocess.DEVNULL)


def write_reports():
    run = FOLDER / "run"
    shutil.rmtree(run, ignore_errors=True)
    subprocess.run([SINKLAB, "train", ROOT / "experiments/quickstart/baseline.yaml", f"data.corpus={TEXT}",
                    "train.steps=20", "train.warmup=5", "train.probe_every=5", "train.eval_every=10",
                    "train.eval_windows=4", "train.checkpoint_every=0", "--out", run], check=True, capture_output=True)
    write_report("report-run.html", run)
    said = subprocess.run([SINKLAB, "probe", ROOT / "notebooks/models/residual-sink.gguf", "--corpus", TEXT,
                           "--windows", "4", "--json", "--profile"], check=True, capture_output=True).stdout
    (FOLDER / "model.json").write_bytes(said)
    write_report("report-model.html", FOLDER / "model.json")


def fetched(driver):
    """What the page asked for that is neither in it nor beside it."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "file:"))]


class Pages(unittest.TestCase):
    driver: webdriver.Chrome
    shots: pathlib.Path

    @classmethod
    def setUpClass(cls):
        cls.driver = start()
        cls.shots = FOLDER / "screenshots"
        cls.shots.mkdir(exist_ok=True)

    @classmethod
    def tearDownClass(cls):
        cls.driver.quit()

    def load(self, page, width):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
        self.driver.get(page.as_uri())
        errors = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        self.assertEqual(errors, [])
        self.assertEqual(fetched(self.driver), [])

    def test_pages(self):
        lessons = sorted(FOLDER.glob("[0-9]*.html"))
        self.assertTrue(lessons, f"no lessons in {FOLDER}; the test `lessons` makes them")
        write_reports()
        pages = [*lessons, FOLDER / "report-run.html", FOLDER / "report-model.html"]
        for page in pages:
            for width in WIDTHS:
                with self.subTest(page=page.name, width=width):
                    self.load(page, width)
                    self.shoot(self.shots / f"{page.stem}-{width}.png")
                    self.assertLessEqual(self.driver.execute_script(WIDER), 0, self.driver.execute_script(WIDEST))
                    self.assertEqual(self.driver.execute_script(BROKEN), 0)

    def shoot(self, path):
        """The whole page, however long."""
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        width = self.driver.execute_script("return window.innerWidth")
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {
            "captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}})
        path.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        print("no chromium and chromedriver here (Debian: chromium-driver)")
        sys.exit(77)
    unittest.main()
