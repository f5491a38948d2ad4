import numpy as np
import pytest
import torch

from dist_rmd.distill.attention import attention_loss


def maps(seed, widths, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, width, side, side) for width, side in zip(widths, (8, 4), strict=True)]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def naive(student, teacher):
    """Zagoruyko & Komodakis, image by image."""
    values = []
    for image in range(len(student[0])):
        total = 0.0
        for s, t in zip(student, teacher, strict=True):
            looks = [(m[image].numpy() ** 2).mean(0).ravel() for m in (s, t)]
            a, b = (look / np.sqrt((look**2).sum()) for look in looks)
            total += ((a - b) ** 2).mean()
        values.append(total)
    return values


def test_it_is_the_formula_for_networks_of_any_widths():
    ours, theirs = maps(0, (3, 6)), maps(1, (4, 2))
    np.testing.assert_allclose(attention_loss(ours, theirs).numpy(), naive(ours, theirs), rtol=1e-12)
    assert attention_loss(ours, ours).abs().max() == 0


def test_only_the_student_is_taught():
    ours, theirs = ([m.requires_grad_() for m in maps(seed, (3, 3))] for seed in (0, 1))
    attention_loss(ours, theirs).sum().backward()
    assert all(m.grad.isfinite().all() and m.grad.any() for m in ours)
    assert all(m.grad is None for m in theirs)


def test_half_precision_is_computed_in_float32_and_black_maps_are_no_nan():
    ours = [m.bfloat16() for m in maps(0, (3, 3))]
    assert attention_loss(ours, ours).dtype == torch.float32
    black = [torch.zeros_like(m) for m in maps(0, (3, 3))]
    assert attention_loss(black, maps(1, (3, 3))).isfinite().all()


def test_maps_of_other_places_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 8\), \(4, 4\)\] and \[\(8, 8\)\]"):
        attention_loss(maps(0, (3, 3)), maps(0, (3, 3))[:1])
