"""d. What a step of SimSiam keeps the device busy with, and how near to its limits it comes."""

from tools.replicate_parts.bench import bench
from tools.replicate_parts.step import Step, Work

ROUNDS = 2


def run(work: Work) -> None:
    batches = ["--batches", 512] if work.gpu else []
    try:
        bench(work, "profile", *batches, "--rounds", ROUNDS)
    finally:
        work.say(headline(work))


def headline(work: Work) -> str:
    """The fraction of the matrix rate, of every stage."""
    near = [table for table in work.entry.shown if table.title.startswith("How near to the limits")]
    return "; ".join(
        f"{row.name} at {row.facts['of the matrix rate']} of the matrix rate" for t in near for row in t.rows
    )


STEP = Step("profile", "Where the time goes", run, least={"cuda": 30, "cpu": 15}, most={"cuda": 90, "cpu": 40})
