import numpy as np
import pytest
import torch

from dist_rmd.distill.adaptation import NoiseAdaptation


def drawn(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learned(classes=4, accuracy=0.8):
    """One that has moved from where it starts."""
    adaptation = NoiseAdaptation(classes, accuracy).double()
    with torch.no_grad():
        adaptation.scores.copy_(drawn(classes, classes, seed=1))
    return adaptation


def naive_matrix(adaptation):
    """Row by row, with a softmax over the C - 1 others."""
    scores = adaptation.scores.detach().numpy()
    q = np.zeros(scores.shape)
    for i, row in enumerate(scores):
        others = [j for j in range(len(row)) if j != i]
        weights = np.exp(row[others])
        q[i, others] = (1 - adaptation.accuracy) * weights / weights.sum()
        q[i, i] = adaptation.accuracy
    return q


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.95, 1.0])
def test_the_matrix_is_the_formula(classes, accuracy):
    adaptation = learned(classes, accuracy)
    np.testing.assert_allclose(adaptation.matrix().detach().numpy(), naive_matrix(adaptation), rtol=1e-13)
    torch.testing.assert_close(adaptation.matrix().sum(dim=1), torch.ones(classes, dtype=torch.float64))


def test_it_begins_with_the_same_for_all_others():
    expected = torch.full((5, 5), 0.1 / 4).fill_diagonal_(0.9)
    torch.testing.assert_close(NoiseAdaptation(5, 0.9).matrix(), expected)


@pytest.mark.parametrize("accuracy", [0.3, 0.95])
def test_outputs_are_the_formula(accuracy):
    adaptation, logits = learned(accuracy=accuracy), drawn(6, 4)
    p = np.exp(logits.numpy())
    expected = np.log(p / p.sum(axis=1, keepdims=True) @ naive_matrix(adaptation))
    np.testing.assert_allclose(adaptation(logits).detach().numpy(), expected, rtol=1e-12)


def test_with_an_accuracy_of_one_it_is_the_students_own_log_softmax():
    logits = drawn(6, 4)
    torch.testing.assert_close(learned(accuracy=1.0)(logits), logits.log_softmax(dim=1))


@pytest.mark.parametrize("accuracy", [0.0, 0.8, 1.0])
def test_finite_differences(accuracy):
    adaptation = learned(accuracy=accuracy)

    def outputs(logits, scores):
        return torch.func.functional_call(adaptation, {"scores": scores}, logits)

    inputs = [drawn(3, 4).requires_grad_(), adaptation.scores.detach().clone().requires_grad_()]
    assert torch.autograd.gradcheck(outputs, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("accuracy", [0.0, 0.8, 1.0])
def test_extreme_logits_are_finite_in_value_and_gradient(dtype, accuracy):
    adaptation = NoiseAdaptation(3, accuracy)
    logits = torch.tensor([[6e4, 0, -6e4], [0, 6e4, 6e4]], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = adaptation(logits)
    outputs.sum().backward()
    assert outputs.dtype == torch.float32
    for found in (outputs, logits.grad, adaptation.scores.grad):
        assert found.isfinite().all()
    if accuracy == 0.8:
        torch.testing.assert_close(outputs[0].exp(), torch.tensor([0.8, 0.1, 0.1]))


def test_autocast_does_not_reach_it():
    logits = drawn(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = learned().float()(logits.float())
    torch.testing.assert_close(found.double(), learned()(logits), rtol=1e-5, atol=1e-5)


def test_confusions_of_the_teacher_are_learned_and_the_diagonal_is_not():
    """A teacher that takes every other image of class 0 for class 1 in place of 2."""
    adaptation = NoiseAdaptation(3, 0.5)
    optimizer = torch.optim.Adam(adaptation.parameters(), lr=0.1)
    logits = torch.tensor([[30.0, 0, 0]] * 4)
    said = torch.tensor([0, 1, 0, 1])
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.nll_loss(adaptation(logits), said).backward()
        optimizer.step()
    torch.testing.assert_close(adaptation.matrix()[0], torch.tensor([0.5, 0.5, 0]), rtol=0, atol=5e-3)
    torch.testing.assert_close(adaptation.matrix()[1:], NoiseAdaptation(3, 0.5).matrix()[1:], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("classes", "accuracy", "words"),
    [(1, 0.9, "at least 2 classes"), (3, -0.1, "in 0..1"), (3, 1.1, "in 0..1"), (3, float("nan"), "in 0..1")],
)
def test_values_out_of_range(classes, accuracy, words):
    with pytest.raises(ValueError, match=words):
        NoiseAdaptation(classes, accuracy)
