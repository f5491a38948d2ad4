import pytest
import torch
from support.forked import on_ranks
from support.ranks.accuracy import measure, table


def by_hand(logits, labels):
    return 100 * sum(int(row.argmax() == label) for row, label in zip(logits, labels, strict=True)) / len(labels)


def test_equals_counting_by_hand():
    logits, labels = table()
    expected = {"test/top1": pytest.approx(by_hand(logits, labels)), "test/predicted_classes": 4}
    assert measure((logits, labels)) == expected


def test_labels_held_out_are_measured_too():
    test, held_out = table(), table(20, seed=1)
    metrics = measure(test, held_out)
    assert metrics == measure(test) | {"val/top1": pytest.approx(by_hand(*held_out))}
    assert next(iter(metrics)) == "val/top1"  # the score of an epoch, by which the best is kept
    assert next(iter(measure(test))) == "test/top1"


def test_a_network_without_an_opinion_predicts_one_class():
    logits, labels = table()
    for constant in (0.0, 7.0, float("nan")):
        assert measure((torch.full_like(logits, constant), labels))["test/predicted_classes"] == 1


def test_each_image_counts_once_on_three_ranks(tmp_path):
    """Each rank sees only some of the classes that are predicted."""
    on_ranks(3, "accuracy", tmp_path)
    alone = measure(table(7), table(37))
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [str(alone)] * 3
    logits, _ = table(7)
    assert all(len(logits[rank::3].argmax(1).unique()) < alone["test/predicted_classes"] for rank in range(3))
