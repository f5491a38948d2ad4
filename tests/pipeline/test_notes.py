"""What is told before a run begins."""

import numpy as np
import pytest

from dist_rmd.config import sections
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.labels.view import LabelView, noisy_view, openset_view
from dist_rmd.pipeline.notes import notes

CLASSES = ("cat", "dog", "ship")


def told(labels, *overrides, images=None, trained_on=None):
    config = sections.parse(None, ["stages=[classifier]", *overrides])
    return notes(config, CLASSES, images or len(labels), labels, trained_on or labels)


def few(rate, exact=True):
    return noisy_view([0, 1, 2], 3, "symmetric", rate, seed=0, exact=exact)


def test_a_run_as_it_should_be_has_none():
    assert told(noisy_view(np.arange(30) % 3, 3, "symmetric", 0.4, 0), "noise.rate=0.4") == []
    assert told(LabelView.of(np.arange(30) % 3, 3)) == []
    assert told(LabelView.of(np.arange(30) % 3, 3, verified=False)) == []


def test_a_rate_that_rounds_to_nothing():
    (line,) = told(few(0.4), "noise.rate=0.4")
    assert line == (
        "noise.rate=0.4 changes no label: the classes have too few images; noise.exact=false draws for each label by "
        "itself"
    )
    assert not any("noise.rate" in line for line in told(few(0.6), "noise.rate=0.6"))
    view = openset_view([0, 1, 2, OPEN, OPEN], 3, 0.1, 0.5, seed=0)
    assert told(view, "noise.kind=openset", "noise.rho1=0.1", "noise.rho2=0.5") == [
        "noise.rho1=0.1 changes none of 3 labels: there are too few"
    ]
    view = openset_view([0, 1, 2] * 4 + [OPEN], 3, 0.5, 0.05, seed=0)
    assert told(view, "noise.kind=openset", "noise.rho1=0.5", "noise.rho2=0.05") == [
        "noise.rho2=0.05 brings in no image of none of the classes: there are too few labels"
    ]


def test_classes_without_an_image_to_learn_from():
    view = LabelView.of([0, 0, 2, 2, 1], 3)
    assert told(view.first(None, skip=1)) == ["1 of 3 classes have no training image: dog"]
    only = LabelView([0, 1], [0, 0], [0, 1], 3)
    assert told(only) == ["2 of 3 classes have no training image: dog, ship"]
    assert told(view, trained_on=only) == ["2 of 3 classes have no training image: dog, ship"]


def test_labels_given_in_a_file():
    view = LabelView.of([0, 1, 2, 0], 3)
    setting = ["noise.kind=file", "noise.file=a.csv"]
    assert told(view, *setting, "noise.rate=0.4") == [
        "noise.rate=0.4 has no effect: noise.kind=file takes labels as given"
    ]
    assert told(view, *setting, images=9) == ["noise.file=a.csv has labels for 4 of 9 images: the others are left out"]
    assert told(view, *setting, "data.per_class=2", images=9) == []


@pytest.mark.parametrize(("schedule", "count"), [("cosine", 1), ("step", 0)])
def test_milestones_of_another_schedule(schedule, count):
    lines = told(LabelView.of([0, 1, 2], 3), "task.milestones=[3]", f"task.schedule={schedule}")
    assert lines == [f"task.milestones has no effect: task.schedule={schedule}"][:count]


def test_sections_that_no_stage_reads():
    words = ["stages=[classifier]", "simsiam.epochs=3", "task.epochs=3", "seed=1", "teacher.width=8"]
    assert sections.unread(sections.parse(None, words), words) == [
        "simsiam.epochs=3 has no effect: none of stages=[classifier] reads it",
        "teacher.width=8 has no effect: none of stages=[classifier] reads it",
    ]


def test_a_momentum_that_adamw_does_not_have():
    view = LabelView.of(np.arange(30) % 3, 3)
    assert told(view, "task.optimizer=adamw") == []
    assert told(view, "task.optimizer=adamw", "task.momentum=0.8", "task.nesterov=true") == [
        "task.momentum has no effect: task.optimizer=adamw",
        "task.nesterov has no effect: task.optimizer=adamw",
    ]


def test_a_teacher_alone_sees_no_noise():
    view = LabelView.of([0, 1, 2, 0], 3)
    noise = ["noise.kind=openset", "noise.rho1=0.5", "noise.rho2=0.5"]
    assert told(view, "stages=[teacher]", *noise) == ["noise.* has no effect: stages=[teacher] learns the true labels"]
    assert told(view, "stages=[teacher]") == []
