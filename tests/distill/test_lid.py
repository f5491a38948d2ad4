import numpy as np
import pytest
import torch

from dist_rmd.distill.lid import chosen, lid


def naive(rows, k):
    """Row by row in numpy float64."""
    found = []
    for i, row in enumerate(rows):
        distances = sorted(np.linalg.norm(row - other) for j, other in enumerate(rows) if j != i)[:k]
        found.append(-k / sum(np.log(d / distances[-1]) for d in distances))
    return found


@pytest.mark.parametrize("k", [2, 5, 19])
def test_is_the_formula(k):
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(lid(rows, k).numpy(), naive(rows.numpy(), k), rtol=1e-10)


@pytest.mark.parametrize("dimensions", [2, 8])
def test_tells_the_dimension_of_a_plane(dimensions):
    draws = torch.Generator().manual_seed(0)
    plane = (
        torch.rand(4000, dimensions, generator=draws)
        @ torch.linalg.qr(torch.randn(50, dimensions, generator=draws))[0].T
    )
    assert lid(plane, 100).median().item() == pytest.approx(dimensions, rel=0.2)


def test_of_features_that_are_all_alike_nothing_is_known():
    assert lid(torch.ones(5, 3), 2).tolist() == [0] * 5
    assert lid(torch.tensor([[0.0], [0.0], [1.0], [3.0]]), 2).isfinite().all()


@pytest.mark.parametrize(("n", "k"), [(5, 5), (5, 0), (0, 1)])
def test_fewer_rows_than_neighbours_are_refused(n, k):
    with pytest.raises(ValueError, match=f"{k} neighbours of each of {n} rows"):
        lid(torch.ones(n, 2), k)


def test_images_are_drawn_anew_for_every_epoch():
    first, again, second = chosen(1000, 128, 0, 0), chosen(1000, 128, 0, 0), chosen(1000, 128, 0, 1)
    assert len(set(first.tolist())) == 128
    assert (first == again).all()
    assert set(first.tolist()) != set(second.tolist())
    assert sorted(chosen(5, 128, 0, 0).tolist()) == [0, 1, 2, 3, 4]
