import pytest
import torch

from dist_rmd.distill.adversarial import random_directions, steepest, unit


def test_directions_are_of_length_one_and_spread_evenly():
    found = random_directions(torch.zeros(500, 3, 2, 2, dtype=torch.float64), (500,), 0, 7, 0, 0)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(500, dtype=torch.float64))
    assert found.mean(0).abs().max() < 0.06
    torch.testing.assert_close(found.var(0), torch.full((3, 2, 2), 1 / 12, dtype=torch.float64), rtol=0.2, atol=0)


@pytest.mark.parametrize("sizes", [(4, 3, 3), (10, 0), (1, 9)])
def test_ranks_draw_their_parts_of_one_batch(sizes):
    whole = random_directions(torch.zeros(10, 3, 4, 4), (10,), 0, 7, 2, 5)
    parts = [random_directions(torch.zeros(size, 3, 4, 4), sizes, r, 7, 2, 5) for r, size in enumerate(sizes)]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(random_directions(torch.zeros(10, 3, 4, 4), (10,), 0, 7, 2, 6), whole)


def test_one_step_finds_the_steepest_direction():
    """Of |A d|^2 the gradient at d is 2 A^T A d: one step of the power iteration."""
    a = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = unit(torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    found = steepest(lambda d: (d @ a.T).square().sum(), start, 1e-6)
    torch.testing.assert_close(found, unit(start @ (a.T @ a)))
    assert not found.requires_grad


def test_where_nothing_changes_there_is_no_direction():
    assert not steepest(lambda d: 0 * d.sum(), unit(torch.ones(2, 3)), 1e-6).any()
    tiny = unit(torch.tensor([[1e-20, 0.0], [3e-30, 4e-30]]))
    torch.testing.assert_close(tiny, torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
