"""The pixels that numba makes, to the bit those of torch's operations, and of integers summed one by one."""

import itertools

import numpy as np
import pytest
import torch
from support.pictures import pictures
from torch import Tensor

from dist_rmd.data.augment import pixels_numba, pixels_torch
from dist_rmd.data.augment.draws import ORDERS

STATISTICS = torch.tensor([[0.49, 0.48, 0.44], [0.25, 0.24, 0.26]]).view(2, 1, 3, 1, 1)
IDENTITY = torch.tensor([[0.0] * 3, [1.0] * 3]).view(2, 1, 3, 1, 1)


def boxes(n: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random ones, and those of one pixel, of one line and of the whole image, at all borders."""
    generator = torch.Generator().manual_seed(side)
    size, start = 1 + (torch.rand(2, n, generator=generator) * side).long(), torch.rand(2, n, generator=generator)
    extremes = itertools.product((1, 2, side - 1, side), (1, 2, side - 1, side), (0.0, 0.999), (0.0, 0.999))
    size[:, :64], start[:, :64] = torch.tensor([*extremes]).T.split(2)
    top, left = (start * (side + 1 - size)).long()
    return top, left, *size


def parameters(n: int) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """flip, factors, gray."""
    generator = torch.Generator().manual_seed(n)
    factors = 0.6 + 0.8 * torch.rand(4, n, generator=generator)
    factors[3] = torch.rand(n, generator=generator) - 0.5
    factors[:, ::5] = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    flip, gray = torch.rand(2, n, generator=generator) < 0.5
    return flip, factors.unbind(0), gray


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", [8, 9, 31, 32, 64, 127, 128])
def test_a_crop_is_integers_and_one_division(side):
    n = 80
    data, (top, left, height, width), (flip, _, _) = pictures(n, side), boxes(n, side), parameters(n)
    gray = torch.zeros(n, dtype=torch.bool)
    got = pixels_numba.strong(data, (top, left, height, width), flip, [torch.ones(n)] * 4, gray, (), IDENTITY)
    for i in range(n):
        box = data[i, top[i] : top[i] + height[i], left[i] : left[i] + width[i]].long().numpy()
        rows, columns = (enlarged(int(size), side) for size in (height[i], width[i]))
        exact = np.einsum("yr,rxc->yxc", rows, np.einsum("xq,rqc->rxc", columns, box))
        exact = exact[:, ::-1] if flip[i] else exact
        expected = exact.astype(np.float32) / np.float32(255 * (2 * side) ** 2)
        np.testing.assert_array_equal(got[i].permute(1, 2, 0).numpy(), expected)


def enlarged(size: int, side: int) -> np.ndarray:
    """side x size weights in units of 1/(2 side): each output's centre lies between two pixels' centres."""
    weights = np.zeros((side, size), np.int64)
    for output in range(side):
        position = max((2 * output + 1) * size - side, 0)
        pixel, weight = divmod(position, 2 * side)
        weights[output, pixel] += 2 * side - weight
        weights[output, min(pixel + 1, size - 1)] += weight
    return weights


@pytest.mark.parametrize("side", [8, 31, 32, 128])
def test_strong_is_torchs_in_every_order(side, threads):
    n = 80
    data, box, (flip, factors, gray) = pictures(n, side), boxes(n, side), parameters(n)
    for order in ORDERS if side < 128 else ORDERS[5:6]:
        arguments = data, box, flip, factors, gray, order, STATISTICS
        got = pixels_numba.strong(*arguments)
        assert torch.equal(got, pixels_torch.strong(*arguments))
        assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [8, 31, 128])
def test_weak_is_torchs(side, threads):
    n = 50
    data, (flip, _, _) = pictures(n, side), parameters(n)
    down, right = torch.randint(-side // 8, side // 8 + 1, (2, n), generator=torch.Generator().manual_seed(side))
    down[:2], right[:2] = torch.tensor([[0, side], [-side, 0]])  # nothing, and all of it, out of the picture
    got = pixels_numba.weak(data, down, right, flip, STATISTICS)
    assert torch.equal(got, pixels_torch.weak(data, down, right, flip, STATISTICS))
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_samples_than_threads(n, threads):
    data, still, flip = pictures(8, 8)[:n], torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
    assert torch.equal(
        pixels_numba.weak(data, still, still, flip, IDENTITY), pixels_torch.weak(data, still, still, flip, IDENTITY)
    )
