"""a. What the machine is, and what it can do at best."""

from tools.replicate_parts.bench import bench
from tools.replicate_parts.step import Step, Work


def run(work: Work) -> None:
    bench(work, "machine", "--rounds", 3)
    limits = next((table for table in work.entry.shown if table.title == "Its limits"), None)
    if limits:
        work.say("; ".join(f"{row.name} {figure} {unit}" for row in limits.rows for unit, figure in row.facts.items()))


STEP = Step("machine", "The machine", run, least={"cuda": 15, "cpu": 10}, most={"cuda": 40, "cpu": 40})
