"""A plug-in of pytest: what becomes of each test is a line of JSON in $REPLICATE_OUTCOMES, at once."""

import json
import os
from typing import Any

WHERE = "REPLICATE_OUTCOMES"
REASON = 400
"""characters of why a test has failed that are kept"""


def pytest_collection_finish(session: Any) -> None:
    for item in session.items:
        _tell(item.nodeid, "collected")


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        said = str(report.longrepr)
        _tell(report.nodeid, "left out" if "ModuleNotFoundError" in said else "failed", said)


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or not report.passed:
        _tell(report.nodeid, report.outcome, "" if report.passed else str(report.longrepr))


def _tell(test: str, outcome: str, said: str = "") -> None:
    lines = [line for line in said.splitlines() if line.startswith("E ")] or said.splitlines()[-1:]
    reason = " ".join(" ".join(line.removeprefix("E").strip() for line in lines).split())[:REASON]
    with open(os.environ[WHERE], "a") as file:
        file.write(json.dumps({"test": test, "outcome": outcome, "reason": reason}) + "\n")
