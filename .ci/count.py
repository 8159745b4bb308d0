"""Adds up the results of meson test runs; last line `N passed, N failed`; exit code 1 if any failed."""
import json
import pathlib
import sys

GOOD = {"OK", "EXPECTEDFAIL"}
passed = failed = skipped = 0
for build in sys.argv[1:]:
    log = pathlib.Path(build, "meson-logs", "check.json")
    results = [json.loads(line)["result"] for line in log.read_text().splitlines()] if log.exists() else []
    if not results:
        print(f"{build}: no test ran")
        failed += 1
    for result in results:
        passed += result in GOOD
        skipped += result == "SKIP"
        failed += result not in GOOD and result != "SKIP"
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed else 0)
