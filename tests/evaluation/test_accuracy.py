import pytest
import torch
from torch import nn
from torchrun import on_ranks

from dist_rmd.data.batch import Batch
from dist_rmd.evaluation.accuracy import top1


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


def table(images=37):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, 5, generator=generator), torch.randint(5, (images,), generator=generator)


def test_equals_counting_by_hand():
    logits, labels = table()
    by_hand = sum(int(row.argmax() == label) for row, label in zip(logits, labels, strict=True))
    assert top1(Identity(), Share(logits, labels)) == pytest.approx(100 * by_hand / 37)


def test_each_image_counts_once_on_three_ranks(tmp_path):
    logits, labels = table()
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch, torch.distributed as dist\n"
        f"sys.path.insert(0, {str(__file__.rpartition('/')[0])!r})\n"
        "from test_accuracy import Identity, Share, table, top1\n"
        "dist.init_process_group('gloo')\n"
        "value = top1(Identity(), Share(*table(), dist.get_rank(), dist.get_world_size()))\n"
        "open(f'{sys.argv[1]}/{dist.get_rank()}', 'w').write(str(value))\n"
        "dist.destroy_process_group()\n"
    )
    on_ranks(3, script, tmp_path)
    expected = str(top1(Identity(), Share(logits, labels)))
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [expected] * 3
