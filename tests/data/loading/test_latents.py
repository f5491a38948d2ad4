"""Noise: the same global batch on any number of ranks, after any restart."""

import pytest
import torch
from scipy import stats

from dist_rmd.data.loading.latents import Latents

CPU = torch.device("cpu")


def latents(rank=0, world=1, seed=3, dtype=torch.float32):
    return Latents(7, 10, 4, seed, rank, world, CPU, dtype)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_what_one_process_has_to_the_bit(world):
    ranks = [list(latents(rank, world).epoch(2)) for rank in range(world)]
    alone = list(latents().epoch(2))
    assert len(alone) == len(latents()) == 4
    for number, (whole, *parts) in enumerate(zip(alone, *ranks, strict=True)):
        assert torch.equal(torch.cat([part.views[0] for part in parts]), whole.views[0])
        assert torch.cat([part.rows for part in parts]).tolist() == whole.indices.tolist() == list(range(10))
        assert {part.sizes for part in parts} == {tuple(len(part.indices) for part in parts)}
        assert (whole.epoch, whole.number, whole.sizes) == (2, number, (10,))
        assert whole.labels.tolist() == [-1] * 10


def test_an_epoch_goes_on_where_it_was():
    for later, batch in zip(list(latents().epoch(1))[2:], latents().epoch(1, start=2), strict=True):
        assert torch.equal(later.views[0], batch.views[0])
        assert later.number == batch.number


def test_steps_and_seeds_differ_and_no_number_comes_twice():
    batches = [batch.views[0] for seed in (0, 1) for epoch in range(3) for batch in latents(seed=seed).epoch(epoch)]
    numbers = torch.stack(batches)
    assert numbers.shape == (24, 10, 7)
    assert numbers.dtype == torch.float32
    assert len(numbers.unique()) > 0.999 * numbers.numel()


def test_numbers_are_standard_normal_and_independent():
    made = Latents(50, 200, 10, 0, 0, 1, CPU, torch.float64)
    numbers = torch.cat([batch.views[0] for batch in made.epoch(0)]).double()  # 2000 x 50
    assert stats.kstest(numbers.flatten().numpy(), "norm").pvalue > 0.01
    correlation = torch.corrcoef(numbers.T) - torch.eye(50)
    assert correlation.abs().max() < 6 / 2000**0.5


def test_a_batch_may_serve_several_steps():
    """Also where a training goes on between them, and with numbers of its own in every epoch."""
    once, thrice = (Latents(7, 10, steps, 3, 0, 1, CPU, repeat=steps // 2) for steps in (2, 6))
    for epoch in range(2):
        expected = [batch.views[0] for batch in once.epoch(epoch) for _ in range(3)]
        for start in range(6):
            found = [batch.views[0] for batch in thrice.epoch(epoch, start)]
            assert all(map(torch.equal, found, expected[start:])), start
            assert len(found) == 6 - start
