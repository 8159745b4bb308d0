"""Adds up the results of meson test runs: which tests failed, which were skipped, which took most CPU time.

Usage: count.py BUILD...; the last line is `N passed, N failed`, with `, N skipped` if there are any; exit code 1 if any
failed. A build whose tests did not run counts as one failure.
"""
import json
import pathlib
import re
import sys

PASSED = {"OK", "EXPECTEDFAIL"}
MOST = 5


def cpu(test: dict[str, str]) -> float:
    """What watch.py says on standard error, seconds."""
    found = re.findall(r"^cpu (\d+\.\d+)$", test.get("stderr", ""), re.M)
    return float(found[-1]) if found else 0


passed = 0
failed: list[str] = []
skipped: list[str] = []
for build in sys.argv[1:]:
    logs = pathlib.Path(build, "meson-logs").glob("check*.json")  # meson adds the name of a --setup
    tests = [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    if not tests:
        failed.append(f"{build}: no test ran")
    most = sorted(tests, key=cpu, reverse=True)[:MOST]
    print(f"{build}: {sum(map(cpu, tests)):.0f} s of CPU time; most: "
          + ", ".join(f"{test['name'].split(' / ')[-1]} {cpu(test):.0f}" for test in most))
    for test in tests:
        name = f"{build}: {test['name']}"
        if test["result"] in PASSED:
            passed += 1
        elif test["result"] == "SKIP":
            skipped.append(name)
        else:
            failed.append(f"{name}: {test['result']}")
for name in skipped:
    print(f"skipped  {name}")
for name in failed:
    print(f"FAILED   {name}")
print(f"{passed} passed, {len(failed)} failed" + (f", {len(skipped)} skipped" if skipped else ""))
sys.exit(1 if failed else 0)
