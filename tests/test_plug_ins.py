"""One file is enough: an encoder, a stage, an evaluation and a report that lie in their folders are used by name."""

import importlib
from pathlib import Path

import pytest
from support import small

from dist_rmd import config, report
from dist_rmd.config import sections
from dist_rmd.errors import ConfigError
from dist_rmd.pipeline import command

ENCODER = '''
"""Two convolutions."""

from torch import nn

from dist_rmd.models.encoder import Encoder

__all__ = ["Pair"]


class Pair(Encoder):
    stride = 4

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1))
        self.out_features = 2 * width

    def maps(self, images):
        return self.layers(images)
'''

STAGE = '''
"""Cross entropy with a memory of what was said of each image."""

from dataclasses import dataclass

import torch

from dist_rmd.distributed.collectives import write_rows
from dist_rmd.losses.ce import CE
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.stages._task import TaskConfig
from dist_rmd.stages.base import ClassifierStage, batch_mean

__all__ = ["Planted"]


@dataclass(frozen=True)
class PlantedConfig:
    """Stage `planted_stage`."""

    lam: float = 0.5
    """weight of the memory"""


class Planted(ClassifierStage):
    sections = {"task": TaskConfig, "planted": PlantedConfig}
    recipe = "task"
    evaluation = "planted_evaluation"

    def __init__(self, config, data, inputs):
        self.optimization, self.lam = config.section(TaskConfig), config.section(PlantedConfig).lam
        self.net = ImageClassifier(encoder(config.model.name, config.model.width), data.classes)
        self.memory = {"said": torch.full((data.images, data.classes), 1 / data.classes)}
        self.ce = CE()

    def losses(self, net, batch):
        logits, _ = net(batch.views[0])
        p = logits.softmax(dim=1)
        write_rows(self.memory["said"], batch.rows, p.detach(), batch.sizes)
        kept = (p * self.memory["said"][batch.rows]).sum(dim=1)
        return {"loss": batch_mean(self.ce(logits, batch.labels) - self.lam * kept, batch)}
'''

EVALUATION = '''
"""Error in percent."""

from dist_rmd.evaluation.accuracy import accuracy

__all__ = ["right"]


def right(net, splits):
    return {"test/planted": accuracy(net, splits)["test/top1"], "test/more": 1.0}
'''

REPORT = '''
"""How many runs."""

__all__ = ["count"]


def count(runs, *, twice: bool = False):
    """How many runs there are.

    twice: count each twice.
    """
    return f"{len(runs) * (1 + twice)} runs"
'''

PLANTED = {
    "models.encoders": ("planted_encoder", ENCODER),
    "stages": ("planted_stage", STAGE),
    "evaluation": ("planted_evaluation", EVALUATION),
    "reports": ("planted_report", REPORT),
}


@pytest.fixture
def _planted(tmp_path, monkeypatch):
    for kind, (name, text) in PLANTED.items():
        package = importlib.import_module(f"dist_rmd.{kind}")
        folder = tmp_path / kind
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()


def trained(data: Path, out: Path) -> Path:
    words = ["stages=[planted_stage]", "model.name=planted_encoder", "planted.lam=0.1", "data.reader=memory"]
    assert command.main([*small.RECIPE, *words, f"data.path={data}", f"out={out}"]) == 0
    return out / "run"


@pytest.mark.usefixtures("_planted")
def test_one_file_each_is_trained_measured_and_reported(tmp_path, capsys):
    run = trained(small.prepare(tmp_path), tmp_path / "runs")
    capsys.readouterr()
    assert report.main([str(run)]) == 0
    (row,) = capsys.readouterr().out.splitlines()[2:]
    assert row.startswith("| planted_stage | digits | symmetric 0.4 | test/planted | ")
    assert report.main(["planted_report", "--twice=true", str(run)]) == 0
    assert capsys.readouterr().out == "2 runs\n"
    assert report.main(["--help-of-nothing", str(run)]) == 2


@pytest.mark.usefixtures("_planted")
def test_what_lies_there_is_named_in_help_and_in_refusals():
    assert "planted.lam=0.5  (float)" in config.help_text(sections.sections())
    with pytest.raises(ConfigError, match=r"did you mean planted_encoder\?"):
        sections.parse(None, ["model.name=planted_encode"])
