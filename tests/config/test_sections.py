from pathlib import Path

import pytest

from dist_rmd.config import read_yaml, sections
from dist_rmd.errors import ConfigError
from dist_rmd.losses._build import LossConfig, configured
from dist_rmd.registry import available, lookup
from dist_rmd.stages._student import StudentConfig
from dist_rmd.stages._task import TaskConfig
from dist_rmd.stages.division import DivisionConfig
from dist_rmd.stages.modul import ModulConfig
from dist_rmd.stages.rgrl import RelationConfig
from dist_rmd.stages.simsiam import SimSiamConfig
from dist_rmd.stages.teacher import TeacherConfig
from dist_rmd.sweep import grid

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))
CONFIGS, GRIDS = ([file for file in FILES if ("axes" in read_yaml(file)) == is_grid] for is_grid in (False, True))


def named(file):
    return f"{file.parent.name}-{file.stem}"


def has_what_it_needs(config):
    """Every stage comes after those that it starts from, or another run has trained these."""
    stages = [lookup("stages", name) for name in config.stages]
    return all(
        set(stage.needs(stage.scope(config))) <= {*config.stages[:position], *config.inputs}
        for position, stage in enumerate(stages)
    )


def test_sweeps_have_folders_of_their_own():
    folders = [grid.load(file).folder for file in GRIDS]
    assert len(set(folders)) == len(folders)


def test_every_stage_adds_its_sections():
    assert {"simsiam", "task", "loss", "relation"} <= sections.sections().keys()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"task": TaskConfig}, {"task": ModulConfig}),  # one name, two sections
        ({"task": TaskConfig}, {"work": TaskConfig}),  # one section, two names
    ],
)
def test_stages_that_do_not_agree_on_a_section_are_refused_by_name(one, other):
    declared = {"classifier": {**one, "loss": LossConfig}, "elr": {"loss": LossConfig, **other}}
    with pytest.raises(ConfigError, match=r"stage elr declares section '\w+' .*, but stage classifier declares 'task'"):
        sections.united(declared)


@pytest.mark.parametrize("file", CONFIGS, ids=named)
def test_every_configuration_of_the_project_is_valid(file):
    config = sections.parse(file)
    assert all(stage in available("stages") for stage in config.stages)
    configured(config.section(LossConfig))
    assert has_what_it_needs(config)


@pytest.mark.parametrize("file", GRIDS, ids=named)
def test_every_cell_of_every_grid_is_valid(file):
    for cell in grid.load(file, seeds=[0]).cells:
        config = sections.parse(cell.file, cell.overrides())
        configured(config.section(LossConfig))
        assert has_what_it_needs(config)


@pytest.mark.parametrize(("dataset", "lr"), [("cifar10", 0.001), ("cifar100", 0.01)])
def test_the_papers_recipe(dataset, lr):
    """RMDNet sec. 4.3."""
    config = sections.parse(Path(__file__).resolve().parents[2] / "configs" / "rmdnet" / f"{dataset}.yaml")
    s, t, r = (config.section(kind) for kind in (SimSiamConfig, TaskConfig, RelationConfig))
    assert (s.epochs, s.batch_size, s.lr, s.schedule) == (1000, 64, 0.03, "cosine")
    assert (s.momentum, s.weight_decay) == (0.9, 5e-4)
    assert (t.epochs, t.lr, t.momentum, t.weight_decay) == (240, lr, 0.9, 5e-4)
    assert (t.schedule, t.milestones, t.gamma) == ("step", (150, 180, 210), 0.1)
    assert (r.node, r.edge) == (0.8, 0.35)
    assert (config.model.name, config.model.width) == ("resnet18", 64)


def test_the_recipe_of_the_other_paper():
    """MODUL sec. V-B; the teacher's is that of its authors' code."""
    for dataset in ("cifar10", "cifar100"):
        config = sections.parse(FILES[0].parent.parent / "modul" / f"{dataset}.yaml")
        s, m, d = (config.section(kind) for kind in (StudentConfig, ModulConfig, DivisionConfig))
        assert (s.epochs, s.batch_size, s.lr, s.momentum, s.weight_decay) == (200, 64, 0.1, 0.9, 1e-4)
        assert (s.schedule, s.milestones, s.gamma) == ("step", (80, 160), 0.1)
        assert (m.alpha, m.beta, m.gamma, m.temperature) == (0.1, 0.1, 0.01, 0.3)
        assert (d.clean, d.closed, d.components, d.evidence) == (0.3, 0.9, 20, "relu")
        assert (config.model.name, config.section(TeacherConfig).model) == ("resnet18", "resnet34")


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_what_the_presets_say_is_what_goes_without_saying(dataset):
    """The paper's values are the defaults, too."""
    config = sections.parse(FILES[0].parent.parent / "modul" / f"{dataset}.yaml")
    bare = sections.parse(None)
    for section in ("student", "modul", "division", "teacher"):
        assert config.sections[section] == bare.sections[section], section
