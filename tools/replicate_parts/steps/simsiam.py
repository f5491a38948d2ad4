"""e. SimSiam on the images, for as many epochs as the time allows; nearest neighbours at the end."""

from pathlib import Path

from dist_rmd.run.folder import RunFolder
from tools.replicate_parts.figures import rate
from tools.replicate_parts.sizes import encoder, training_images
from tools.replicate_parts.step import Step, Work
from tools.replicate_parts.training import FASTER, Run, epochs_that_fit, scores, train

HEADS = ("simsiam.batch_size=64", "simsiam.proj_hidden=512", "simsiam.proj_out=512", "simsiam.pred_hidden=128")
"""on CPUs: the published heads of 2048 would take as long as a small encoder"""
SETTINGS = {"cuda": ("simsiam.batch_size=512", "simsiam.lr=0.06"), "cpu": HEADS}


def simsiam(work: Work) -> Run:
    return Run(
        "SimSiam", "simsiam", "simsiam", "simsiam", training_images(work), "test/knn_top1",
        ("stages=[simsiam]", f"data.path={work.images}", *encoder(work), *SETTINGS[work.device]),
        FASTER[work.device],
    )  # fmt: skip


def run(work: Work) -> None:
    siamese = simsiam(work)
    known = rate(work.record, "A step of SimSiam, batch 512", "ours, tricks on") if work.gpu else None
    epochs = epochs_that_fit(work, siamese, rate=known)
    try:
        train(work, siamese, epochs)
    finally:
        if found := scores(work, siamese):
            work.say(f"kNN {found[max(found)]:.1f} % after {max(found)} of {epochs} epochs")


STEP = Step(
    "simsiam",
    "SimSiam",
    run,
    least={"cuda": 90, "cpu": 60},
    weight=2.0,
    leaves=str(RunFolder(Path("runs/simsiam")).artefact("simsiam")),
)
