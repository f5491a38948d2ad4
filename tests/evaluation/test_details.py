import numpy as np
import pytest

from dist_rmd.evaluation._details import BINS, calibration_error, of


@pytest.fixture
def judged():
    """400 images of 7 classes of which the last has none: random probabilities, right more often than not."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 400)
    logits = rng.normal(size=(400, 7)) + 2 * np.eye(7)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def test_everything_is_as_counted_by_hand(judged):
    probabilities, labels = judged
    found = of(probabilities, labels, 7)
    confusion = np.zeros((7, 7), int)
    top5 = 0
    for p, label in zip(probabilities, labels, strict=True):
        confusion[label, p.argmax()] += 1
        top5 += label in np.argsort(-p)[:5]
    assert (found.confusion == confusion).all()
    assert found.top5 == pytest.approx(100 * top5 / 400)
    assert found.by_class[:6] == pytest.approx([100 * confusion[c, c] / (labels == c).sum() for c in range(6)])
    assert found.by_class[6] is None
    others = [max((n, -c) for c, n in enumerate(confusion[0]) if c != 0)]
    assert found.mistaken_for(0) == -others[0][1]
    assert found.mistaken_for(6) is None
    assert of(probabilities[:, :5], labels % 5, 5).top5 is None


def test_the_calibration_error_is_the_sum_over_bins(judged):
    """Guo et al. 2017, eq. 3, a bin at a time: (low, high], the first with its low end."""
    probabilities, labels = judged
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        inside = [i for i, p in enumerate(confidence) if low < p <= high]
        if inside:
            gap = abs(sum(right[i] for i in inside) / len(inside) - sum(confidence[i] for i in inside) / len(inside))
            expected += len(inside) / len(confidence) * gap
    assert expected > 0.01
    assert calibration_error(confidence, right) == pytest.approx(expected)
    assert of(probabilities, labels, 7).ece == pytest.approx(100 * expected)


@pytest.mark.parametrize(("right", "error"), [(True, 0.25), (False, 0.75)])
def test_the_calibration_error_where_all_or_none_are_right(right, error):
    assert calibration_error(np.full(9, 0.75), np.full(9, right)) == pytest.approx(error)
