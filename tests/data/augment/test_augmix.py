"""AugMix against PIL's operations, and the mixing of its chains step by step."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from support.pictures import pictures

from dist_rmd.data.augment import augmix, draws, keyed_rng
from dist_rmd.data.augment.views import Views

MEAN, STD = (0.49, 0.48, 0.44), (0.25, 0.24, 0.26)
LEVELS = (0.1, 0.35, 0.7, 0.9, 0.999)
"""of severity 1"""


def moved(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def of_pil(name, image, level, sign):
    """What AugMix's code does at a level, in PIL."""
    size = sign * int(level * image.size[0] / 3 / 10)
    factor = level * 1.8 / 10 + 0.1
    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - int(level * 4 / 10)),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
        "rotate": lambda: image.rotate(sign * int(level * 30 / 10), resample=Image.Resampling.BILINEAR),
        "shear_x": lambda: moved(image, 1, sign * level * 0.3 / 10, 0, 0, 1, 0),
        "shear_y": lambda: moved(image, 1, 0, 0, sign * level * 0.3 / 10, 1, 0),
        "translate_x": lambda: moved(image, 1, 0, size, 0, 1, 0),
        "translate_y": lambda: moved(image, 1, 0, 0, 0, 1, size),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
    }[name]()


@pytest.mark.parametrize("name", augmix.OPERATIONS)
@pytest.mark.parametrize("side", [8, 33])
def test_an_operation_is_pils(name, side):
    """To one of 255 levels: PIL computes some of them in floats."""
    data = pictures(10, side)
    data[5:] = data[5:] // 3 + torch.arange(side, dtype=torch.uint8)[:, None, None]  # neither black nor white
    images = data.permute(0, 3, 1, 2).int()
    for level in LEVELS:
        for sign in (1, -1):
            operation = torch.full((1, 1, 10), augmix.OPERATIONS.index(name))
            step = augmix.steps(operation, torch.full((1, 1, 10), sign * round(level * augmix.UNIT)), side)
            whole = torch.tensor([0, augmix.UNIT])[:, None].expand(2, 10)
            got = (augmix.mixed(images, whole, step) * 255).permute(0, 2, 3, 1).numpy()
            expected = np.stack([of_pil(name, Image.fromarray(image.numpy()), level, sign) for image in data])
            assert np.abs(got - expected).max() <= 1.001
            assert name in ("color", "brightness", "contrast") or np.abs(got - expected).mean() < 0.1


def one_by_one(image, index, side, first):
    """The view of one image, its draws as Python numbers, its chains step by step, mixed in float64."""
    key = (3, 5, 0)

    def uniform(what):
        return keyed_rng.uniform(*key, what, index).item()

    def level(chain, step):
        bits = keyed_rng.bits(*key, f"augmix level {chain} {step}", index).item() >> 16
        size = (2**16 + 9 * bits) // 10
        return -size if uniform(f"augmix sign {chain} {step}") < 0.5 else size

    shown = Views(["weak"], side, (0.0,) * 3, (1.0,) * 3, 3, False)(image, index, 5, 0)[0]
    plain = (shown * 255).round().int()
    share, low, high = uniform("augmix share"), *sorted(uniform(f"augmix cut {cut}") for cut in (0, 1))
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    total = (1 - share) * (plain / 255 - mean) / std
    for chain, weight in enumerate((low, high - low, 1 - high)):
        end = plain
        for step in range(1 + int(3 * uniform(f"augmix depth {chain}"))):
            which = torch.tensor([[[int(13 * uniform(f"augmix operation {chain} {step}"))]]])
            made = augmix.steps(which, torch.tensor([[[level(chain, step)]]]), side)
            end = augmix.mixed(end, torch.tensor([[0], [augmix.UNIT]]), made).mul(255).round().int()
        if chain >= first:
            total += share * weight * (end / 255 - mean) / std
    return total[0]


@pytest.mark.parametrize(("kind", "first"), [("augmix", 0), ("augmix_last", 2)])
def test_three_chains_or_the_last_are_mixed_with_the_weak_view(kind, first):
    data, index = pictures(12, 16), torch.arange(12) * 7919
    (got,) = Views([kind], 16, MEAN, STD, seed=3, compiled=False)(data, index, 5, 0)
    for i in range(12):
        expected = one_by_one(data[i : i + 1], index[i : i + 1], 16, first)
        torch.testing.assert_close(got[i].double(), expected, rtol=0, atol=5e-4)  # weights are in units of 2^-16


@pytest.mark.parametrize("side", [8, 31])
def test_pixels_do_not_depend_on_the_batch_and_are_the_same_compiled(side):
    data, index = pictures(40, side), torch.arange(40) * 7919
    eager, compiled = (Views(["augmix", "augmix_last"], side, MEAN, STD, 0, fast) for fast in (False, True))
    whole = eager(data, index, 2, 3)
    for views in (eager, compiled):
        parts = [views(d, i, 2, 4) for d, i in zip(data.split([22, 18]), index.split([22, 18]), strict=True)]
        assert all(map(torch.equal, whole, map(torch.cat, zip(*parts, strict=True))))
        assert parts[0][0].is_contiguous(memory_format=torch.channels_last)


def test_rates_and_ranges_of_the_draws():
    n = 20_000
    keys = keyed_rng.keys(0, 0, 0, draws.AUGMIX)
    _, weights, steps = draws.augmix(keys, torch.arange(n), 32, 0.5)
    assert (weights >= 0).all()
    assert (weights.sum(0) == augmix.UNIT).all()
    for mean, expected in zip(weights.double().mean(1) / augmix.UNIT, (1 / 2, 1 / 6, 1 / 6, 1 / 6), strict=True):
        assert mean.item() == pytest.approx(expected, abs=0.01)
    used = steps.kind >= 0
    for step, expected in enumerate((1, 2 / 3, 1 / 3)):
        assert used[:, step].double().mean().item() == pytest.approx(expected, abs=0.01)
    counts = torch.bincount(steps.kind[used], minlength=9).double() / used.sum()
    expected = torch.tensor([1.0, 1, 1, 1, 5, 1, 1, 1, 1], dtype=torch.float64) / 13
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.01)
    assert steps.amount[steps.kind == augmix.SOLARIZE].unique().tolist() == list(range(231, 255))
