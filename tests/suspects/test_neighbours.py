import numpy as np
import pytest
import torch
from support import naive_suspects

from dist_rmd.evaluation import _nearest
from dist_rmd.suspects.neighbours import Neighbours
from dist_rmd.suspects.probabilities import Probabilities


@pytest.mark.parametrize(("rows", "columns"), [(1024, 2**14), (7, 10), (50, 3)])
def test_neighbours_and_their_classes_are_those_of_the_full_matrix(monkeypatch, rows, columns):
    """Whatever is held at a time."""
    monkeypatch.setattr(_nearest, "ROWS", rows)
    monkeypatch.setattr(_nearest, "COLUMNS", columns)
    draw = np.random.default_rng(0)
    points, classes = draw.normal(size=(50, 6)), draw.dirichlet(np.ones(4), 50)
    near = Neighbours.of(torch.from_numpy(points).float(), 9)
    nearest, shares = naive_suspects.neighbours(points, classes, 9)
    np.testing.assert_array_equal(near.nearest, nearest)
    whole = Probabilities.whole(torch.from_numpy(classes).float())
    np.testing.assert_allclose(near.shares(whole, slice(50)), shares, atol=1e-6)
    np.testing.assert_allclose(near.shares(whole, slice(7, 9)), shares[7:9], atol=1e-6)
    labels = np.arange(50) % 4
    _, shares = naive_suspects.neighbours(points, np.eye(4)[labels], 9)
    np.testing.assert_allclose(near.like(torch.from_numpy(labels)), shares[np.arange(50), labels], atol=1e-6)


def test_an_image_has_no_say_about_itself():
    points = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    near, classes = Neighbours.of(points, 29), torch.eye(3)[torch.arange(30) % 3]
    before = near.shares(Probabilities.whole(classes), slice(30))
    classes[4] = torch.tensor([0.0, 0.0, 1.0])
    after = near.shares(Probabilities.whole(classes), slice(30))
    torch.testing.assert_close(before[4], after[4], rtol=0, atol=0)
    assert not torch.equal(before, after)


def test_all_others_may_be_neighbours_even_where_they_are_one_point():
    near = Neighbours.of(torch.ones(5, 3), 4)
    assert [sorted(row) for row in near.nearest.tolist()] == [[j for j in range(5) if j != i] for i in range(5)]
