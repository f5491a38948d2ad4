import pytest

from dist_rmd.engine.score import Score


def measured(**tags):
    """Two evaluations, of the first and the second epoch, with these values under test/... tags."""
    return [{"epoch": e + 1, "step": e, **{tag: values[e] for tag, values in tags.items()}} for e in range(2)]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (measured(**{"test/top1": [72.1, 71]}), "test/top1 71.00 %, best 72.10 % (epoch 1)"),
        (measured(**{"test/top1": [50, 50], "test/top1_b": [90, 90]}), "test/top1 50.00 %, best 50.00 % (epoch 1)"),
        (
            measured(**{"val/top1": [60, 65], "test/top1": [80, 70], "test/predicted_classes": [9, 10]}),
            "val/top1 65.00 % of held-out labels as given, best 65.00 % (epoch 2); test/top1 70.00 %",
        ),
        (
            measured(**{"test/knn_top1_unverified": [30, 40]}),
            "test/knn_top1_unverified 40.00 % by labels that nobody has verified, best 40.00 % (epoch 2)",
        ),
        (
            measured(**{"test/top1": [20, 10], "test/predicted_classes": [4, 1]}),
            "test/top1 10.00 %, best 20.00 % (epoch 1); collapsed: one class for all test images",
        ),
    ],
)  # fmt: skip
def test_last_and_best_in_words(scores, words):
    assert str(Score.of(scores)) == words


def test_an_evaluation_of_other_images_is_not_compared_with():
    """Labels have been held out since then, by --force."""
    before = [{"epoch": 1, "step": 4, "test/top1": 99.0}]
    now = [{"epoch": 2, "step": 8, "val/top1": 40.0, "test/top1": 50.0}]
    assert Score.of([*before, *now]) == Score("val/top1", 40.0, 40.0, 2, test=50.0)
