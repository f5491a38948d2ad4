"""A prepared dataset and a recipe small enough for whole runs within tests."""

from pathlib import Path

from dist_rmd.data.beton import write
from dist_rmd.data.datasets.digits import digits

RECIPE = (
    "data.compile_views=false",
    "data.per_class=15",
    "model.width=8",
    "model.name=resnet10",
    "noise.rate=0.4",
    "simsiam.epochs=2",
    "simsiam.batch_size=32",
    "simsiam.proj_hidden=16",
    "simsiam.proj_out=16",
    "simsiam.pred_hidden=8",
    "task.epochs=2",
    "task.batch_size=32",
    "task.lr=0.05",
    "teacher.model=resnet10",
    "teacher.width=8",
    "teacher.epochs=2",
    "teacher.batch_size=32",
    "log.every=1",
    "device=cpu",
)


def prepare(folder: Path) -> Path:
    """The digits as betons in `folder`/digits."""
    write(digits(None, None), folder / "digits")
    return folder / "digits"
