from pathlib import Path

import pytest

from dist_rmd import sections
from dist_rmd.config import read_yaml
from dist_rmd.registry import available, lookup
from dist_rmd.robust_loss import robust_loss
from dist_rmd.sweep import grid

FILES = sorted((Path(__file__).resolve().parent.parent / "configs").rglob("*.yaml"))
CONFIGS, GRIDS = ([file for file in FILES if ("axes" in read_yaml(file)) == is_grid] for is_grid in (False, True))


def test_every_stage_adds_its_sections():
    assert {"simsiam", "task", "loss", "relation"} <= sections.sections().keys()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_of_the_project_is_valid(file):
    config = sections.parse(file)
    assert all(stage in available("stages") for stage in config.stages)
    robust_loss(config.loss)
    for position, stage in enumerate(config.stages):
        assert set(lookup("stages", stage).needs(config)) <= set(config.stages[:position])


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_cell_of_every_grid_is_valid(file):
    for cell in grid.load(file, seeds=[0]).cells:
        config = sections.parse(cell.file, cell.overrides())
        robust_loss(config.loss)
        for position, stage in enumerate(config.stages):
            assert set(lookup("stages", stage).needs(config)) <= set(config.stages[:position])


@pytest.mark.parametrize(("dataset", "lr"), [("cifar10", 0.001), ("cifar100", 0.01)])
def test_the_papers_recipe(dataset, lr):
    """RMDNet sec. 4.3."""
    config = sections.parse(Path(__file__).resolve().parent.parent / "configs" / "rmdnet" / f"{dataset}.yaml")
    s, t, r = config.simsiam, config.task, config.relation
    assert (s.epochs, s.batch_size, s.lr, s.schedule) == (1000, 64, 0.03, "cosine")
    assert (s.momentum, s.weight_decay) == (0.9, 5e-4)
    assert (t.epochs, t.lr, t.momentum, t.weight_decay) == (240, lr, 0.9, 5e-4)
    assert (t.schedule, t.milestones, t.gamma) == ("step", (150, 180, 210), 0.1)
    assert (r.node, r.edge) == (0.8, 0.35)
    assert (config.model.name, config.model.width) == ("resnet18", 64)
