"""Views against torchvision with the same parameters, and the independence of a sample's pixels from its batch."""

import math

import pytest
import torch
import torchvision.transforms.functional as tv
from scipy import stats
from support.pictures import pictures
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from dist_rmd.data.augment import colour, geometry, keyed_rng
from dist_rmd.data.augment.draws import ORDERS
from dist_rmd.data.augment.views import Views
from dist_rmd.errors import ConfigError

MEAN, STD = (0.49, 0.48, 0.44), (0.25, 0.24, 0.26)
IDENTITY = ((0.0,) * 3, (1.0,) * 3)


def indices(n: int) -> Tensor:
    return torch.arange(n) * 7919 % 50_021


def floats(batch: Tensor) -> Tensor:
    return batch.permute(0, 3, 1, 2).float() / 255


def normalise(batch: Tensor) -> Tensor:
    return (batch - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def box_of(seed: int, epoch: int, view: int, index: Tensor, side: int) -> tuple[int, int, int, int]:
    """torchvision's get_params, one sample at a time in Python floats, with our draws in place of its own."""

    def uniform(what):
        return keyed_rng.uniform(seed, epoch, view, what, index).item()

    def integer(what, limit):
        return keyed_rng.bits(seed, epoch, view, what, index).item() * limit // 2**32

    for t in range(10):
        area = side * side * (0.2 + 0.8 * uniform(f"crop area {t}"))
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * uniform(f"crop ratio {t}"))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= side and 0 < height <= side:
            return integer("crop top", side - height + 1), integer("crop left", side - width + 1), height, width
    return 0, 0, side, side


@pytest.mark.parametrize("side", [8, 30, 32, 64])
def test_strong_is_torchvision_with_the_same_parameters(side):
    seed, epoch, batch, n = 3, 5, 11, 64
    data, index = pictures(n, side), indices(n)
    got = Views(["plain", "strong"], side, MEAN, STD, seed, compiled=False)(data, index, epoch, batch)[1]
    order = ORDERS[keyed_rng.key(seed, epoch, 1, f"jitter order {batch}") % 24]
    seen = {"flip": 0, "jitter": 0, "gray": 0}
    for i, image in enumerate(floats(data)):

        def uniform(what, i=i):
            return keyed_rng.uniform(seed, epoch, 1, what, index[i : i + 1]).item()

        top, left, height, width = box_of(seed, epoch, 1, index[i : i + 1], side)
        expected = tv.resized_crop(image, top, left, height, width, [side, side], antialias=True)
        if uniform("flip") < 0.5:
            expected, seen["flip"] = tv.hflip(expected), seen["flip"] + 1
        if uniform("jitter") < 0.8:
            seen["jitter"] += 1
            for operation in order:
                expected = [
                    lambda x: tv.adjust_brightness(x, 0.6 + 0.8 * uniform("brightness")),
                    lambda x: tv.adjust_contrast(x, 0.6 + 0.8 * uniform("contrast")),
                    lambda x: tv.adjust_saturation(x, 0.6 + 0.8 * uniform("saturation")),
                    lambda x: tv.adjust_hue(x, 0.2 * uniform("hue") - 0.1),
                ][operation](expected)
        if uniform("gray") < 0.2:
            expected, seen["gray"] = tv.rgb_to_grayscale(expected, 3), seen["gray"] + 1
        # five operations in a row and a division by std ~ 0.25, each with its own rounding
        torch.testing.assert_close(got[i], normalise(expected), rtol=0, atol=2e-5)
    assert all(0 < count < n for count in seen.values())


@pytest.mark.parametrize("side", [8, 30, 32, 64])
def test_resize_is_torchvisions(side):
    n = 64
    data = pictures(n, side)
    draws = keyed_rng.draw(keyed_rng.keys(0, 0, 0, [str(i) for i in range(22)]), indices(n))
    top, left, height, width = geometry.random_resized_boxes(draws[:10], draws[10:20], draws[20], draws[21], side)
    flip = torch.arange(n) % 2 == 0
    rows, columns = geometry.bilinear(top, height, flip & False, side), geometry.bilinear(left, width, flip, side)
    got = geometry.resample(data, rows, columns, 2 * side)
    for i, image in enumerate(floats(data)):
        box = [int(x[i]) for x in (top, left, height, width)]
        expected = tv.resized_crop(
            image.double(), *box, [side, side], antialias=True
        )  # in float32 it is 1e-6 off at side 30
        expected = tv.hflip(expected) if flip[i] else expected
        torch.testing.assert_close(got[i].double(), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (colour.brightness, tv.adjust_brightness, 0.0, 2.0),
        (colour.contrast, tv.adjust_contrast, 0.0, 2.0),
        (colour.saturation, tv.adjust_saturation, 0.0, 2.0),
        (colour.hue, tv.adjust_hue, -0.5, 0.5),
    ],
)
def test_colour_is_torchvisions(ours, theirs, low, high):
    batch = floats(pictures(64, 32))
    factors = torch.linspace(low, high, 64)
    expected = torch.stack([theirs(x, f.item()) for x, f in zip(batch, factors, strict=True)])
    torch.testing.assert_close(ours(batch, factors), expected, rtol=0, atol=1e-6)


def test_gray_is_torchvisions():
    batch = floats(pictures(64, 32))
    torch.testing.assert_close(
        colour.gray(batch).expand(-1, 3, -1, -1), tv.rgb_to_grayscale(batch, 3), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("side", [8, 32])
def test_weak_is_padding_crop_and_flip_to_the_bit(side):
    n, padding = 200, side // 8
    data, index = pictures(n, side), indices(n)
    (got,) = Views(["weak"], side, *IDENTITY, seed=2, compiled=False)(data, index, 4, 0)
    seen = set()
    for i, image in enumerate(floats(data)):
        key = (2, 4, 0)
        down, right = (
            keyed_rng.bits(*key, what, index[i : i + 1]).item() * (2 * padding + 1) // 2**32
            for what in ("shift down", "shift right")
        )
        flip = keyed_rng.uniform(*key, "flip", index[i : i + 1]).item() < 0.5
        expected = tv.crop(tv.pad(image, [padding]), down, right, side, side)
        assert torch.equal(got[i], tv.hflip(expected) if flip else expected)
        seen.add((down, right, flip))
    assert {down for down, _, _ in seen} == {right for _, right, _ in seen} == set(range(2 * padding + 1))
    assert {flip for _, _, flip in seen} == {False, True}


def test_plain_normalises():
    data = pictures(16, 32)
    (got,) = Views(["plain"], 32, MEAN, STD, seed=0, compiled=False)(data, indices(16), 0, 0)
    torch.testing.assert_close(got, normalise(floats(data)), rtol=0, atol=0)


def test_boxes_are_distributed_like_torchvisions():
    n, side = 8000, 32
    draws = keyed_rng.draw(keyed_rng.keys(0, 0, 0, [str(i) for i in range(22)]), torch.arange(n))
    ours = torch.stack(geometry.random_resized_boxes(draws[:10], draws[10:20], draws[20], draws[21], side))
    torch.manual_seed(0)
    image = torch.empty(3, side, side)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]).T
    for mine, their in zip(ours, theirs, strict=True):
        table = [torch.bincount(x, minlength=side + 1) for x in (mine, their)]
        table = torch.stack([t[(table[0] + table[1]) > 20] for t in table])
        assert stats.chi2_contingency(table.numpy()).pvalue > 1e-3
    for a in range(4):
        for b in range(a):
            pair = [torch.corrcoef(boxes[[a, b]].double())[0, 1].item() for boxes in (ours, theirs)]
            assert pair[0] == pytest.approx(pair[1], abs=5 * (2 / n) ** 0.5)


def test_the_whole_image_is_taken_when_no_try_fits():
    area = torch.full((10, 1), 2**32 - 1)  # the largest area at the most extreme ratio never fits
    ratio = torch.zeros((10, 1), dtype=torch.int64)
    box = geometry.random_resized_boxes(area, ratio, torch.tensor([123]), torch.tensor([456]), 32)
    assert [x.item() for x in box] == [0, 0, 32, 32]
    ratio[6:] = 2**31  # a square one fits
    area[6:] = 2**31
    assert [x.item() for x in geometry.random_resized_boxes(area, ratio, *torch.zeros(2, 1).long(), 32)] == [
        0,
        0,
        25,
        25,
    ]


def test_rates_and_ranges_of_the_draws():
    n = 4000
    data = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8).expand(n, -1, -1, -1)
    (got,) = Views(["strong"], 8, *IDENTITY, seed=0, compiled=False)(data, torch.arange(n), 0, 0)
    gray = (got.amax(1) - got.amin(1)).amax((1, 2)) < 1e-6
    assert gray.double().mean().item() == pytest.approx(0.2, abs=0.03)
    assert got.min() >= 0
    assert got.max() <= 1


def test_the_two_views_of_a_sample_and_its_epochs_differ():
    data, index = pictures(64, 32), indices(64)
    views = Views(["strong", "strong"], 32, MEAN, STD, seed=0, compiled=False)
    one, two = views(data, index, 0, 0)
    (next_epoch, _), (again, _) = views(data, index, 1, 0), views(data, index, 0, 0)
    assert torch.equal(one, again)
    for other in (two, next_epoch):
        assert not (one == other)[4:].flatten(1).all(1).any()


def test_jitter_order_is_one_of_all_24_a_batch():
    drawn = {keyed_rng.key(0, 0, 0, f"jitter order {batch}") % 24 for batch in range(400)}
    assert drawn == set(range(24))
    data, index = pictures(32, 8), indices(32)
    views = Views(["strong"], 8, MEAN, STD, seed=0, compiled=False)
    assert not torch.equal(views(data, index, 0, 0)[0], views(data, index, 0, 1)[0])


@pytest.mark.parametrize(
    ("side", "compiled"),
    [(side, compiled) for side in (8, 30, 32) for compiled in (False, True)],  # 30 leaves ragged ends of vectors
)
def test_pixels_do_not_depend_on_the_batch(side, compiled):
    """A batch of 64, as 22+21+21 and one by one: bit for bit; compiled for CPUs they are the eager ones."""
    data, index = pictures(64, side), indices(64)
    views = Views(["strong", "weak", "plain", "local"], side, MEAN, STD, seed=0, compiled=compiled)
    whole = views(data, index, 2, 3)
    for sizes in ([22, 21, 21], [1] * 64):
        parts = [views(d, i, 2, 3) for d, i in zip(data.split(sizes), index.split(sizes), strict=True)]
        for view, pieces in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(view, torch.cat(pieces))
    for view in whole:
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
    if compiled:
        assert all(map(torch.equal, whole, Views(views.kinds, side, MEAN, STD, 0, False)(data, index, 2, 3)))


def test_a_local_view_is_a_window_of_a_strong_view():
    data, index = pictures(64, 8), indices(64)
    kinds = ("strong", "local")
    whole, local = (Views([kind], 8, MEAN, STD, seed=0, compiled=False)(data, index, 2, 3)[0] for kind in kinds)
    assert local.shape == (64, 3, 4, 4)
    places = set()
    for image, window in zip(whole, local, strict=True):
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(image[:, y : y + 4, x : x + 4], window)]
        assert found
        places.update(found)
    assert places == {(y, x) for y in range(5) for x in range(5)}


def test_low_precision_products_elsewhere_do_not_reach_the_pixels():
    data, index = pictures(16, 32), indices(16)
    views = Views(["strong", "weak"], 32, MEAN, STD, seed=0, compiled=False)
    expected = views(data, index, 0, 0)
    torch.set_float32_matmul_precision("medium")
    try:
        assert all(map(torch.equal, views(data, index, 0, 0), expected))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_wrong_input_is_refused():
    with pytest.raises(ConfigError, match="unknown view 'storng'"):
        Views(["storng"], 32, MEAN, STD, seed=0, compiled=False)
    with pytest.raises(ValueError, match="expected b x 32 x 32 x 3"):
        Views(["weak"], 32, MEAN, STD, seed=0, compiled=False)(pictures(4, 8), indices(4), 0, 0)
