import pytest
import torch

from dist_rmd.config import sections
from dist_rmd.errors import ConfigError
from dist_rmd.losses._build import PRESETS, LossConfig, configured, robust_loss
from dist_rmd.registry import lookup

labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p = logits.softmax(dim=1)
p_y = p[torch.arange(50), labels]
NCE = p_y.log() / p.log().sum(dim=1)


def measured(*overrides):
    return configured(sections.parse(None, overrides).section(LossConfig))(logits, labels)


def test_one_loss_with_its_options():
    torch.testing.assert_close(measured("loss.name=gce", "loss.options.q=0.5"), (1 - p_y**0.5) / 0.5)


def test_a_weighted_sum():
    values = measured("loss.name=nce+agce", "loss.weights.agce=4", "loss.options.agce={a: 6, q: 1.5}")
    torch.testing.assert_close(values, NCE + 4 * (7**1.5 - (6 + p_y) ** 1.5) / 1.5)


@pytest.mark.parametrize(
    ("dataset", "name", "expected"),
    [
        ("cifar10", "nce+agce", NCE + 4 * (7**1.5 - (6 + p_y) ** 1.5) / 1.5),
        ("cifar10", "nce+aul", NCE + 4 * ((6.3 - p_y) ** 1.5 - 5.3**1.5) / 1.5),
        ("cifar10", "nce+ael", NCE + 4 * torch.exp(-p_y / 5)),
        ("cifar10", "nce+rce", NCE + 4 * torch.log(torch.tensor(10.0).double()) * (1 - p_y)),
        ("cifar10", "nce+mae", NCE + (1 - p_y)),
        ("cifar100", "nce+agce", 10 * NCE + 0.1 * (2.8**3 - (1.8 + p_y) ** 3) / 3),
        ("cifar100", "nce+aul", 10 * NCE + 0.015 * ((6 - p_y) ** 3 - 5**3) / 3),
        ("cifar100", "nce+ael", 10 * NCE + 0.1 * torch.exp(-p_y / 1.5)),
        ("cifar100", "nce+rce", 10 * NCE + 0.1 * 4 * torch.log(torch.tensor(10.0).double()) * (1 - p_y)),
        ("cifar100", "nce+mae", 10 * NCE + (1 - p_y)),
        ("cifar100", "sce", -6 * p_y.log() + 0.1 * 4 * torch.log(torch.tensor(10.0).double()) * (1 - p_y)),
        ("cifar100", "ce", -p_y.log()),
    ],
)
def test_published_constants(dataset, name, expected):
    torch.testing.assert_close(measured(f"loss.name={name}", f"loss.preset={dataset}"), expected)


def test_what_is_given_wins_over_the_preset():
    values = measured("loss.name=nce+agce", "loss.preset=cifar10", "loss.weights.nce=2", "loss.options.agce.a=5")
    torch.testing.assert_close(values, 2 * NCE + 4 * (6**1.5 - (5 + p_y) ** 1.5) / 1.5)


def test_presets_speak_of_losses_there_are():
    for dataset, losses in PRESETS.items():
        for name in losses:
            assert measured(f"loss.name={name}", f"loss.preset={dataset}").isfinite().all()
            assert set(losses[name]) == set(name.split("+"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss.name=gcee"], ["gcee", "gce"]),
        (["loss.name=nce+agcee"], ["agcee", "agce"]),
        (["loss.name=gce", "loss.options.q=2"], ["loss.options of gce", "q must be in"]),
        (["loss.name=gce", "loss.options.p=1"], ["loss.options of gce", "'p'"]),
        (["loss.name=nce+agce", "loss.options.q=1"], ["loss.options.q", "no such term"]),
        (["loss.name=nce+agce", "loss.options.agce=1"], ["loss.options of agce"]),
        (["loss.name=nce+agce", "loss.weights.gce=1"], ["loss.weights.gce", "no such term"]),
        (["loss.name=gce", "loss.options.q=much"], ["loss.options of gce"]),
    ],
)
def test_wrong_losses_are_named(overrides, words):
    with pytest.raises(ConfigError) as caught:
        measured(*overrides)
    assert all(word in str(caught.value) for word in words), caught.value


def test_single_losses_stay_themselves():
    assert isinstance(configured(sections.parse(None, ["loss.name=mae"]).section(LossConfig)), lookup("losses", "mae"))


def test_a_loss_by_its_name_is_that_of_a_configuration():
    sum_of_two = robust_loss("nce+agce", weights={"agce": 4}, options={"agce": {"a": 6, "q": 1.5}})
    expected = measured("loss.name=nce+agce", "loss.weights.agce=4", "loss.options.agce={a: 6, q: 1.5}")
    assert torch.equal(sum_of_two(logits, labels), expected)
    assert torch.equal(robust_loss("nce+agce", preset="cifar10")(logits, labels), expected)
    one = robust_loss("gce", options={"q": 0.5})
    assert torch.equal(one(logits, labels), measured("loss.name=gce", "loss.options.q=0.5"))
    with pytest.raises(ConfigError, match="did you mean 'gce'"):
        robust_loss("gcee")
