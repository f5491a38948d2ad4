"""What holds for each file of dist_rmd/losses, with the hyper-parameters it has by default."""

import pytest
import torch

from dist_rmd.registry import available, lookup

LOSSES = available("losses")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


@pytest.mark.parametrize("name", LOSSES)
def test_one_value_a_sample_whatever_the_batch(name):
    loss = lookup("losses", name)()
    values = loss(logits, labels)
    assert values.shape == (50,)
    assert values.dtype == torch.float64
    torch.testing.assert_close(torch.cat([loss(logits[:20], labels[:20]), loss(logits[20:], labels[20:])]), values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_finite_at_extreme_logits_in_half_precision(name, dtype):
    extreme = torch.tensor([[6e4, -6e4, 0], [-6e4, 6e4, 0], [6e4, 6e4, 6e4]], dtype=dtype, requires_grad=True)
    values = lookup("losses", name)()(extreme, torch.tensor([0, 0, 0]))
    values.sum().backward()
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    assert extreme.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name):
    few = logits[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lookup("losses", name)()(x, labels[:5]), few)


@pytest.mark.parametrize("name", LOSSES)
def test_the_right_answer_is_better_than_the_wrong_one(name):
    right, wrong = lookup("losses", name)()(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 0])).tolist()
    assert right < wrong


@pytest.mark.parametrize("name", LOSSES)
def test_the_same_logits_for_all_classes_shift_nothing(name):
    loss = lookup("losses", name)()
    torch.testing.assert_close(loss(logits + 100, labels), loss(logits, labels))
