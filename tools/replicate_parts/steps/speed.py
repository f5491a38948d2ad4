"""c. Training steps and input: the product's, and what others would write."""

from tools.replicate_parts.bench import bench
from tools.replicate_parts.goals import speed
from tools.replicate_parts.step import Step, Work

GRAPHS = "speed.cuda_graphs=true"
PARTS = {
    "cuda": (
        ("step", "--batches", 512, "--alone", "--rounds", 3),
        ("rgrl", "--batches", 512, "--with", GRAPHS, "--rounds", 3),
        ("step", "--batches", 64, "--alone", "--rounds", 3),
        ("input", "--rounds", 3),
        ("step", "--batches", 512, "--rounds", 3),
        ("rgrl", "--batches", 64, "--with", GRAPHS, "--rounds", 3),
    ),
    "cpu": (
        ("step", "--alone", "--rounds", 2),
        ("step", "--rounds", 2),
        ("input", "--rounds", 2),
        ("rgrl", "--rounds", 2),
    ),
}
"""what matters most comes first: on a GPU, the first takes 80 s with filled caches of torch.compile"""


def run(work: Work) -> None:
    for part in PARTS[work.device]:
        name = " ".join(map(str, part))
        if not work.finished(name):
            bench(work, *part)
            work.finish(name)
            work.say(headline(work))


def headline(work: Work) -> str:
    """The fastest of ours in every table of steps and views."""
    said = []
    for table in work.entry.shown:
        rows = [row for row in table.rows if row.name.startswith("ours") or row.name == "CE + RGRL"]
        fastest = max((rate for row in rows if (rate := speed(row)) is not None), default=None)
        if fastest is not None:
            said.append(f"{table.title}: {fastest:,.0f} images/s")
    return "; ".join(said)


STEP = Step("speed", "Speed", run, least={"cuda": 40, "cpu": 40}, most={"cuda": 240, "cpu": 150})
