import pytest
import torch
from support import small
from support.recipe import batch, stage

from dist_rmd.engine.writers import read_metrics
from dist_rmd.errors import ConfigError
from dist_rmd.pipeline.command import main
from dist_rmd.reports.summary import summary


def test_loss_is_the_mean_of_the_configured_loss():
    c, b = stage("classifier", "loss.name=gce", "loss.options.q=0.5"), batch()
    logits, _ = c.net(b.views[0])
    p = logits.softmax(dim=1)[torch.arange(10), b.labels]
    assert c.losses(c.net, b)["loss"].item() == pytest.approx(((1 - p**0.5) / 0.5).mean().item(), abs=1e-6)


def test_artefact_is_encoder_and_head():
    assert set(stage("classifier").artefact()) == {"encoder", "head"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("decay", "collapses"), [(10, True), (0, False)])
def test_a_collapsed_network_is_named_on_the_console_and_marked_in_the_table(data, tmp_path, capsys, decay, collapses):
    """A weight decay of 1 / lr leaves no weight after the first step, and so the same features for all images."""
    recipe = [*small.RECIPE, "data.reader=memory", "stages=[classifier]", "task.lr=0.1", "task.momentum=0"]
    place = [f"data.path={data}", f"out={tmp_path}", "name=a"]
    assert main([*recipe, *place, "task.schedule=constant", f"task.weight_decay={decay}"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "the network has collapsed" in line]
    records = [r for r in read_metrics(tmp_path / "a" / "metrics.jsonl") if "test/top1" in r]
    assert [r["test/predicted_classes"] == 1 for r in records] == [collapses, collapses]
    assert [line.startswith("classifier: ") for line in said] == [True, True] * collapses
    assert (", collapsed |" in summary([tmp_path / "a"])) == collapses


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss.name=gcee"], ["gcee", "gce"]),
        (["loss.name=gce", "loss.options.q=2"], ["loss.options", "q must be in"]),
        (["loss.name=gce", "loss.options.p=1"], ["loss.options", "'p'"]),
    ],
)
def test_wrong_losses_are_named(overrides, words):
    with pytest.raises(ConfigError) as caught:
        stage("classifier", *overrides)
    assert all(word in str(caught.value) for word in words), caught.value


def test_defaults_are_the_papers():
    o = stage("classifier").optimization
    assert (o.epochs, o.batch_size, o.lr, o.momentum, o.weight_decay) == (240, 64, 0.001, 0.9, 5e-4)
    assert (o.schedule, o.milestones, o.gamma) == ("step", (150, 180, 210), 0.1)
