"""Sections of tools/bench as parts of a step: their tables are taken over as they are done."""

import json
import sys
from pathlib import Path
from typing import Any

from dist_rmd.data.prepared.beton import manifest_path
from tools.bench_parts.tables import Table
from tools.replicate_parts.command import ROOT
from tools.replicate_parts.step import Work

SIDE = 32


def bench(work: Work, *arguments: Any) -> None:
    """Run tools/bench ARGUMENTS.  A section that fails is a note; raises what Work.python raises."""
    words = list(map(str, arguments))
    out = work.folder / "bench" / "-".join(word.strip("-") for word in words)
    out.mkdir(parents=True, exist_ok=True)
    result = out / "bench.json"
    result.unlink(missing_ok=True)
    seen = 0

    def look() -> bool:
        nonlocal seen
        written = result.stat().st_mtime_ns if result.exists() else 0
        if written != seen:
            seen = written
            take(work, json.loads(result.read_text()))
        return False

    peers = ROOT / ".bench-venv"  # which tools/bench makes for what it compares with, and which sees all of .venv
    own = Path(sys.prefix) == ROOT / ".venv" and (peers / "done").exists()
    # Without images of its size it makes some; those that are there spare it the time.
    data = ["--data", work.images] if prepared_side(work) == SIDE else []
    work.python(
        "-m", "tools.bench_parts", *words, "--device", work.device, *data, "--out", out, look=look, codes=(0, 1),
        interpreter=str(peers / "bin" / "python") if own else sys.executable,
    )  # fmt: skip


def take(work: Work, result: dict[str, Any]) -> None:
    """Tables, errors and the name of the device."""
    work.record.machine = work.entry.machine = result["device"]
    for name, section in result["sections"].items():
        work.show(*map(Table.load, section["tables"]))
        if section["error"]:
            work.note(f"section {name} {section['error']}")


def prepared_side(work: Work) -> int:
    """Of the prepared images; 0 without any."""
    try:
        return int(json.loads(manifest_path(work.images).read_text())["side"])
    except (OSError, ValueError):
        return 0
