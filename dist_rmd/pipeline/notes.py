"""Notes at the start of a run: settings without effect, and classes without training images."""

from collections.abc import Sequence

import numpy as np

from dist_rmd.config import Config, Noise
from dist_rmd.data.labels.view import LabelView
from dist_rmd.registry import lookup
from dist_rmd.stages.base import TrainingStage

SHOWN = 5
"""number of class names in a note"""


def notes(config: Config, classes: Sequence[str], images: int, labels: LabelView, trained_on: LabelView) -> list[str]:
    """All notes, one line each.

    images: number of images of the classes in the dataset.
    labels: labels of the run.
    trained_on: the same without held-out labels.
    """
    left_out = _left_out(config, images, labels)
    return [*_noise(config, labels), *left_out, *_empty(classes, trained_on), *_schedules(config)]


def _noise(config: Config, labels: LabelView) -> list[str]:
    noise, counts = config.noise, labels.counts
    if all(lookup("stages", name).labels == "true" for name in config.stages):
        asked = noise != Noise()
        return [f"noise.* has no effect: stages=[{','.join(config.stages)}] learns the true labels"] if asked else []
    if noise.kind == "file":
        return [f"noise.rate={noise.rate:g} has no effect: noise.kind=file takes labels as given"] if noise.rate else []
    if counts is None:
        return []
    if noise.kind == "openset":
        if noise.rho1 and not labels.noise_rate:
            return [f"noise.rho1={noise.rho1:g} changes none of {len(labels)} labels: there are too few"]
        if noise.rho1 and noise.rho2 and not counts["open"]:
            return [f"noise.rho2={noise.rho2:g} brings in no image of none of the classes: there are too few labels"]
        return []
    if noise.rate and not labels.noise_rate:
        exact = "; noise.exact=false draws for each label by itself" if noise.exact else ""
        return [f"noise.rate={noise.rate:g} changes no label: the classes have too few images{exact}"]
    return []


def _left_out(config: Config, images: int, labels: LabelView) -> list[str]:
    data = config.data
    if config.noise.kind != "file" or data.per_class or data.skip or len(labels) == images:
        return []
    return [f"noise.file={config.noise.file} has labels for {len(labels)} of {images} images: the others are left out"]


def _empty(classes: Sequence[str], trained_on: LabelView) -> list[str]:
    """A note on classes that no training label names."""
    empty = np.flatnonzero(np.bincount(trained_on.given, minlength=len(classes)) == 0)
    if not len(empty):
        return []
    some = ", ".join(classes[label] for label in empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
    return [f"{len(empty)} of {len(classes)} classes have no training image: {some}"]


def _schedules(config: Config) -> list[str]:
    lines = []
    for stage in (lookup("stages", name) for name in config.stages):
        if issubclass(stage, TrainingStage):
            recipe = config.sections[stage.recipe]
            for key in ("momentum", "nesterov"):
                if recipe.optimizer != "sgd" and getattr(recipe, key) != getattr(type(recipe), key):
                    lines.append(f"{stage.recipe}.{key} has no effect: {stage.recipe}.optimizer={recipe.optimizer}")
            chosen = recipe.milestones not in ((), type(recipe).milestones)  # the defaults are not the user's
            if chosen and recipe.schedule not in ("step", "restarts"):
                lines.append(f"{stage.recipe}.milestones has no effect: {stage.recipe}.schedule={recipe.schedule}")
    return list(dict.fromkeys(lines))
