from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from support.ranks.terms import ROWS, mixup, whole_batch

from dist_rmd.distill.mixup import draw, mixed, partners


def weights(delta, count):
    return np.array([draw(0, epoch, number, 1, delta).weight for epoch in range(count // 100) for number in range(100)])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 64, 1000])
def test_partners_are_one_circle_of_all_images(size):
    for number in range(10):
        partner = draw(0, 0, number, size, 8.0).partner
        assert partner.dtype == torch.int64
        walked, at = [], 0
        for _ in range(size):
            walked.append(at)
            at = partner[at].item()
        assert at == 0
        assert sorted(walked) == list(range(size))
        assert size == 1 or (partner != torch.arange(size)).all()


def test_all_circles_are_equally_probable():
    seen = Counter(tuple(draw(3, 0, number, 4, 8.0).partner.tolist()) for number in range(3000))
    assert len(seen) == 6  # 3! circles of four
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


@pytest.mark.parametrize("delta", [0.2, 1.0, 8.0])
def test_weights_are_of_the_beta_distribution(delta):
    found = weights(delta, 2000)
    assert stats.kstest(found, stats.beta(delta, delta).cdf).pvalue > 1e-3
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_nine_weights_in_ten_of_the_authors_are_within_03_and_07():
    found = weights(8.0, 2000)
    assert np.mean((found > 0.3) & (found < 0.7)) == pytest.approx(0.9, abs=0.02)


def test_a_draw_is_the_same_for_ever_and_on_every_machine():
    mix = draw(seed=1, epoch=2, number=3, size=8, delta=8.0)
    assert mix.partner.tolist() == [3, 5, 6, 7, 1, 0, 4, 2]
    assert mix.weight == pytest.approx(0.6668783715369847, rel=1e-12)


def test_seed_epoch_and_number_each_make_another_draw():
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    mixes = [draw(*place, 50, 8.0) for place in places]
    assert len({mix.weight for mix in mixes}) == len({tuple(mix.partner.tolist()) for mix in mixes}) == len(places)
    smaller = draw(0, 0, 0, 20, 1.0)  # neither size nor delta changes what else is drawn
    assert draw(0, 0, 0, 50, 1.0).weight == smaller.weight
    assert torch.equal(draw(0, 0, 0, 20, 8.0).partner, smaller.partner)


def test_generators_of_others_are_left_alone():
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw(0, 0, 0, 50, 8.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("delta", [0, -1, float("nan"), float("inf")])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(ValueError, match="mixup delta must be positive and finite"):
        draw(0, 0, 0, 4, delta)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_mixed_images_are_the_formula(memory_format):
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mix = draw(0, 0, 0, 5, 8.0)
    rows = images.contiguous(memory_format=memory_format)
    others = partners(rows, mix, [5], 0)
    found = mixed(rows, others, mix.weight)
    for i in range(5):
        j = mix.partner[i].item()
        expected = mix.weight * images[i].numpy() + (1 - mix.weight) * images[j].numpy()
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-14)
    assert others.is_contiguous(memory_format=memory_format)
    assert found.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_losses_are_mixed_with_their_gradients(weight):
    both = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: mixed(a, b, weight), [rows.requires_grad_() for rows in both.unbind()])
    assert torch.equal(mixed(*both, 1.0), both[0])
    assert torch.equal(mixed(*both, 0.0), both[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_in_half_precision_stay_in_it(dtype):
    images = torch.tensor([[6e4], [-6e4]], dtype=dtype)
    found = mixed(images, partners(images, draw(0, 0, 0, 2, 8.0), [2], 0), 0.3)
    torch.testing.assert_close(found, torch.tensor([[-2.4e4], [2.4e4]], dtype=dtype), rtol=1e-2, atol=0)


def test_any_number_of_ranks_is_one_process(of_ranks):
    truth = mixup(whole_batch(), (ROWS,), 0)
    for parts in zip(*(found["mixup"] for found in of_ranks), strict=True):
        for part in parts:
            assert part["weight"] == truth["weight"]
            assert torch.equal(part["partner"], truth["partner"])
            assert part["others"].is_contiguous(memory_format=torch.channels_last)
        for rows in ("labels", "others", "mixed"):
            assert torch.equal(torch.cat([part[rows] for part in parts]), truth[rows])
