import pytest
import torch
from torch import nn
from torchrun import on_ranks

from dist_rmd.data.batch import Batch
from dist_rmd.evaluation.accuracy import accuracy
from dist_rmd.evaluation.splits import Splits


class Identity(nn.Module):
    """Takes its input for logits."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images, None


class Share:
    """Every `world`-th row of a table of logits and labels, `size` at a time."""

    def __init__(self, logits, labels, rank=0, world=1, size=4):
        self.rows = torch.arange(rank, len(labels), world).split(size)
        self.logits, self.labels = logits, labels

    def epoch(self, epoch):
        for rows in self.rows:
            yield Batch((self.logits[rows],), self.labels[rows], rows, (len(rows),))


def table(images=37, seed=0):
    """Random logits and labels; of the five classes, the second has the largest logit nowhere."""
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(images, 5, generator=generator), torch.randint(5, (images,), generator=generator)
    logits[:, 1] -= 9
    return logits, labels


def measure(test, validation=None, **share):
    splits = Splits(
        train=lambda: None,
        test=lambda: Share(*test, **share),
        classes=5,
        validation=validation and (lambda: Share(*validation, **share)),
    )
    return accuracy(Identity(), splits)


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
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch, torch.distributed as dist\n"
        f"sys.path.insert(0, {str(__file__.rpartition('/')[0])!r})\n"
        "from test_accuracy import measure, table\n"
        "dist.init_process_group('gloo')\n"
        "found = measure(table(7), table(37), rank=dist.get_rank(), world=dist.get_world_size())\n"
        "open(f'{sys.argv[1]}/{dist.get_rank()}', 'w').write(str(found))\n"
        "dist.destroy_process_group()\n"
    )
    on_ranks(3, script, tmp_path)
    alone = measure(table(7), table(37))
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [str(alone)] * 3
    logits, _ = table(7)
    assert all(len(logits[rank::3].argmax(1).unique()) < alone["test/predicted_classes"] for rank in range(3))
