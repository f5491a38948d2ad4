"""e. Cross entropy with and without RMDNet on labels of which 40 % are wrong, for equally many epochs."""

from tools.replicate_parts.figures import rate
from tools.replicate_parts.sizes import encoder, training_images
from tools.replicate_parts.step import Step, Work
from tools.replicate_parts.steps.simsiam import simsiam
from tools.replicate_parts.training import FASTER, Run, epochs_that_fit, planned, scores, train

COST = 4 / 3
"""of a step with RMDNet, in those of cross entropy: the teacher looks, too"""
COMPILING = 45.0
"""seconds to the first steps on a GPU, whose networks nobody has compiled before"""
TEACHER_SHARE = 0.4
"""of the step's time, for a SimSiam that was not done in its own"""
RECIPE = (
    "noise.kind=symmetric", "noise.rate=0.4", "loss.name=ce", "task.batch_size=64", "task.lr=0.05",
    "task.schedule=cosine",
)  # fmt: skip


def runs(work: Work) -> tuple[Run, Run]:
    common = (f"data.path={work.images}", *encoder(work), *RECIPE)
    teacher = f"inputs.simsiam={simsiam(work).folder(work)}"
    kinds = (
        ("CE", "classifier", ("stages=[classifier]",)),
        ("CE+RMDNet, K = 1", "rgrl", ("stages=[rgrl]", teacher, "relation.k=1")),
    )
    ce, rmdnet = (
        Run(
            title, stage, stage, "task", training_images(work), "test/top1", (*own, *common), FASTER[work.device],
        )
        for title, stage, own in kinds
    )  # fmt: skip
    return ce, rmdnet


def run(work: Work) -> None:
    ce, rmdnet = runs(work)
    siamese = simsiam(work)
    if not siamese.artefact(work).exists() and (begun := planned(work, siamese)) is not None:
        work.note("SimSiam was not done in its own time, and goes on in this step's.")
        train(work, siamese, begun, TEACHER_SHARE * work.left())
    both = siamese.artefact(work).exists()
    if not both:
        work.note("SimSiam is not trained to its end, so RMDNet has no teacher: cross entropy alone.")
    parts = 1 + COST * both
    epochs = epochs_that_fit(work, ce, 1 / parts, known_rate(work) if work.gpu else None, COMPILING)
    try:
        if not work.finished(ce.name):
            train(work, ce, epochs, work.left() / parts if both else None)
            if ce.artefact(work).exists():
                work.finish(ce.name)
        if both:
            train(work, rmdnet, epochs)
    finally:
        said = [f"{run.title} {_ends(scores(work, run))}" for run in (ce, rmdnet) if scores(work, run)]
        found = scores(work, siamese)
        said += [f"SimSiam's kNN {found[max(found)]:.1f} %"] if said and found else []
        work.say("; ".join(said))


def known_rate(work: Work) -> float | None:
    """Images/s of cross entropy: measured, or twice those of SimSiam, which looks at every image twice."""
    if found := rate(work.record, "RGRL beside CE, batch 64", "CE"):
        return found
    simsiam_rate = rate(work.record, "A step of SimSiam, batch 64", "ours, tricks on")
    return 2 * simsiam_rate if simsiam_rate else None


def _ends(found: dict[int, float]) -> str:
    return f"last {found[max(found)]:.1f} %, best {max(found.values()):.1f} %"


STEP = Step("relations", "Wrong labels, with and without RMDNet", run, least={"cuda": 150, "cpu": 90}, weight=2.0)
