import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import small
from support.recipe import batch, stage
from support.whole_runs import assert_same, stopped

from dist_rmd.config import sections
from dist_rmd.distill.adversarial import random_directions
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.resolved import check
from dist_rmd.stages._task import Seen
from dist_rmd.stages.war import similarity


def transport(a, b, cost, reg=0.05, iterations=20):
    """<plan, cost> by Cuturi's updates, columns first, of b x C probabilities -> b values."""
    kernel = (-cost / reg).exp()
    u = torch.ones_like(a)
    for _ in range(iterations):
        v = b / (u @ kernel)
        u = a / (v @ kernel.T)
    return torch.einsum("ki,ij,kj->k", u, kernel * cost, v)


def naive(s, b, start, beta, eps, cost):
    """The authors' loss on one process, in float64."""
    net = copy.deepcopy(s.net).train()
    image = b.views[0]

    def predicted(images):
        return net(images)[0].softmax(1)

    with torch.no_grad():
        p = predicted(image)
    d = (1e-6 * start).requires_grad_()
    (gradient,) = torch.autograd.grad(transport(predicted(image + d), p, cost).mean(), d)
    r = eps * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    smooth = transport(predicted(image + r), p, cost).mean()
    return (F.cross_entropy(net(image)[0], b.labels) + beta * smooth).item(), smooth.item()


@pytest.mark.parametrize("vectors", [False, True])
def test_the_loss_is_the_authors_formula(tmp_path, vectors):
    embed = np.random.default_rng(0).normal(size=(3, 7))
    np.savez(tmp_path / "vectors.npz", embed=embed)
    words = [f"war.vectors={tmp_path / 'vectors.npz'}"] if vectors else []
    s, b = stage("war", "war.warmup=2", "war.beta=3", "war.eps=0.5", *words), batch(dtype=torch.float64)
    s.net.double()
    distances = np.array([[np.linalg.norm(v - w) for w in embed] for v in embed])
    cost = np.exp(-distances / distances.max()) if vectors else np.ones((3, 3))
    np.fill_diagonal(cost, 0)
    s.memory["cost"] = torch.from_numpy(cost)
    assert stage("war", *words).memory["cost"].numpy() == pytest.approx(cost, abs=1e-6)
    start = random_directions(b.views[0], b.sizes, 0, s.draws, b.epoch, b.number)
    loss, smooth = naive(s, b, start, 3, 0.5, torch.from_numpy(cost))
    found = s.losses(s.net, b)
    assert found["loss_smooth"].item() == pytest.approx(smooth, rel=1e-6)
    assert found["loss"].item() == pytest.approx(loss, rel=1e-6)
    assert smooth > 0


def test_sinkhorn_that_has_not_converged_is_said_once():
    """Between predictions that differ by half of their mass, one iteration moves next to nothing."""
    s = stage("war", "war.iterations=1")
    seen = Seen(torch.tensor([[0.0, 0, -3]]), torch.empty(0), others=torch.tensor([[0.0, -3, 0]]))
    missed = s.label_free(seen, batch(size=1))["sinkhorn_error"].item()
    assert missed == pytest.approx(0.927, abs=1e-3)
    said = "Sinkhorn has not converged: 92.7% of the mass is missed; raise war.iterations or war.reg"
    assert [s.warning({"train/sinkhorn_error": missed}) for _ in range(2)] == [said, None]
    s.config = replace(s.config, iterations=20)
    missed = s.label_free(seen, batch(size=1))["sinkhorn_error"].item()
    assert missed < 0.001
    assert s.warning({"train/sinkhorn_error": missed}) is None


def test_only_the_images_themselves_leave_a_trace_in_statistics():
    s, plain, b = stage("war", "war.warmup=0"), stage("classifier"), batch()
    for one in (s, plain):
        one.losses(one.net, b)
    for name, value in plain.net.state_dict().items():
        assert torch.equal(s.net.state_dict()[name], value), name


@pytest.mark.parametrize("words", [["war.warmup=3"], ["war.warmup=0", "war.beta=0"]])
def test_without_the_regularisation_it_is_cross_entropy(words):
    s, b, plain = stage("war", *words), batch(), stage("classifier")
    found = s.losses(s.net, b)
    assert found["loss"].item() == plain.losses(plain.net, b)["loss"].item()
    assert "loss_smooth" not in found


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, "stages=[war]", f"data.path={data}", "data.reader=memory", "name=a"]


def test_stopped_twice_it_ends_with_the_same_bits(command, tmp_path):
    assert main([*command, f"out={tmp_path / 'straight'}"]) == 0
    arguments = [*command, f"out={tmp_path}"]
    assert [stopped(arguments, "war", step) for step in (3, 6)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", tmp_path / "straight" / "a", "war")


def test_class_vectors_enter_the_artefacts_key_by_what_is_in_them(command, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(10, 4))
    for name, content in {"one": vectors, "same": vectors, "other": vectors + np.eye(10, 4)}.items():
        np.save(tmp_path / f"{name}.npy", content)

    def key(*words):
        return check(sections.parse(None, [*command, f"out={tmp_path}", *words])).keys["war"]

    one, same, other = (key(f"war.vectors={tmp_path / name}.npy") for name in ("one", "same", "other"))
    assert one == same
    assert len({one, other, key()}) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.ones((9, 4)), r"shape \(9, 4\), not a finite vector for each of 10 classes"),
        (np.ones((10, 4)), "all vectors are the same"),
        (np.full((10, 4), np.nan), "not a finite vector"),
        (np.arange(40).reshape(10, 4), "int64 of shape"),
    ],
)
def test_files_that_hold_no_class_vectors_are_named(tmp_path, content, said):
    np.save(tmp_path / "v.npy", content)
    with pytest.raises(DataError, match=said):
        similarity(tmp_path / "v.npy", 10)
    np.savez(tmp_path / "v.npz", vectors=content)
    with pytest.raises(DataError, match="no array `embed`"):
        similarity(tmp_path / "v.npz", 10)


def test_a_file_that_is_not_there_is_named(command, tmp_path, capsys):
    assert main([*command, f"out={tmp_path}", f"war.vectors={tmp_path}/none.npy"]) == DataError.code
    assert f"war.vectors={tmp_path}/none.npy: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["beta=-1", "eps=0", "reg=0", "iterations=0"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"war.{value.partition('=')[0]}"):
        stage("war", f"war.{value}")
