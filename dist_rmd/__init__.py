"""dist_rmd: distributed training of image classifiers on wrongly labelled data (RMDNet, MODUL).

The names below serve a loop or a notebook of one's own; each is imported, and torch with it, when it is first used.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from dist_rmd import errors
from dist_rmd.cli import terminal

if TYPE_CHECKING:
    from dist_rmd.data.labels.noise import corrupt, openset
    from dist_rmd.data.labels.view import LabelView
    from dist_rmd.data.prepared.beton import open_dataset
    from dist_rmd.distill.division import divide, subjective_logic_loss
    from dist_rmd.distill.relation import RelationLoss
    from dist_rmd.losses._build import robust_loss
    from dist_rmd.pipeline.runner import train
    from dist_rmd.run.finished import load_run

__version__ = "0.2.0"
__all__ = [
    "LabelView",
    "RelationLoss",
    "corrupt",
    "divide",
    "errors",
    "load_run",
    "open_dataset",
    "openset",
    "robust_loss",
    "subjective_logic_loss",
    "train",
]

# name -> the module of dist_rmd that it is imported from
_HOMES = {
    "LabelView": "data.labels.view",
    "RelationLoss": "distill.relation",
    "corrupt": "data.labels.noise",
    "divide": "distill.division",
    "load_run": "run.finished",
    "open_dataset": "data.prepared.beton",
    "openset": "data.labels.noise",
    "robust_loss": "losses._build",
    "subjective_logic_loss": "distill.division",
    "train": "pipeline.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dist_rmd' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dist_rmd.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if sys.argv[:1] == ["-m"]:  # python -m dist_rmd.<command>, whose own imports come next
    terminal.begin()
