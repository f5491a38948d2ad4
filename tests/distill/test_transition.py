import numpy as np
import pytest
import torch

from dist_rmd.distill.transition import anchor_transition, importance


def posteriors(n, classes=4, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, classes, generator=draws, dtype=torch.float64)).softmax(1)


def authors(eta, drop):
    """Row by row in numpy, with the percentile of T-Revision's code."""
    rows = []
    for column in eta.T:
        candidates = column.copy()
        if drop:
            candidates[column >= np.percentile(column, 100 - 100 * drop, method="higher")] = 0
        rows.append(eta[candidates.argmax()])
    return np.array(rows)


@pytest.mark.parametrize("n", [34, 101, 500])
@pytest.mark.parametrize("drop", [0.0, 0.03, 0.25])
def test_rows_are_those_of_the_authors_code(n, drop):
    eta = posteriors(n)
    np.testing.assert_array_equal(anchor_transition(eta, drop).numpy(), authors(eta.numpy(), drop))


def test_sure_predictions_of_noisy_labels_give_the_true_matrix():
    true = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.2, 0.0, 0.8]], dtype=torch.float64)
    classes = torch.eye(3, dtype=torch.float64)[torch.arange(300) % 3]
    blurred = torch.cat([classes, torch.full((30, 3), 1 / 3, dtype=torch.float64)])
    torch.testing.assert_close(anchor_transition(blurred @ true, 0.03), true)


def test_few_images_leave_one():
    assert anchor_transition(posteriors(1), 0.9).shape == (4, 4)


@pytest.mark.parametrize(("n", "drop"), [(0, 0.0), (3, 1.0), (3, -0.1)])
def test_what_cannot_be_chosen_is_refused(n, drop):
    with pytest.raises(ValueError, match=f"among {n} images without {drop}"):
        anchor_transition(posteriors(n), drop)


def test_weights_are_shares_of_probability():
    t = anchor_transition(posteriors(50))
    logits, labels = posteriors(9, seed=1).log(), torch.arange(9) % 4
    expected = [
        min(p[y] / sum(p[i] * t.numpy()[i, y] for i in range(4)), 2.0)
        for p, y in zip(logits.exp().numpy(), labels.tolist(), strict=True)
    ]
    np.testing.assert_allclose(importance(logits, labels, t, 2.0).numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(importance(logits, labels, torch.eye(4).double(), 10.0), torch.ones(9).double())
    assert not importance(logits.requires_grad_(), labels, t, 2.0).requires_grad
