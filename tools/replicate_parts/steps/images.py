"""The images as betons: all of them for a GPU, a part in small for CPUs."""

from pathlib import Path

from dist_rmd.data.prepared.beton import manifest_path
from tools.replicate_parts.step import Step, Work

SIDE, TRAIN, TEST = 16, 500, 200
"""on CPUs: pixels, training and test images of every class"""


def run(work: Work) -> None:
    work.python("-m", "tools.replicate_parts.images", work.kind, work.data or "-", work.images, *part(work))
    if part(work):
        work.note(f"On a CPU: the first {TRAIN} training and {TEST} test images of every class, {SIDE} x {SIDE}.")
    work.say(work.record.images)


def part(work: Work) -> list[object]:
    """How much of them, as options; digits are few and small."""
    return [] if work.gpu or work.data is None else ["--side", SIDE, "--train", TRAIN, "--test", TEST]


STEP = Step(
    "images",
    "The images",
    run,
    least={"cuda": 3, "cpu": 3},
    most={"cuda": 90, "cpu": 90},
    leaves=str(manifest_path(Path("images"))),
)
