import torch
from torch import nn
from torchrun import on_ranks

from dist_rmd.data.batch import Batch
from dist_rmd.evaluation.features import extract_all


class Share:
    """Every `world`-th of 7 images whose pixels are their index, last first."""

    def __init__(self, rank, world):
        self.rows = torch.arange(rank, 7, world).flip(0).split(2)

    def epoch(self, epoch):
        for rows in self.rows:
            yield Batch((rows[:, None].half(),), rows % 3, rows, (len(rows),))


def test_all_images_in_order():
    features, labels, indices = extract_all(nn.Identity(), Share(0, 1))
    assert indices.tolist() == list(range(7))
    assert labels.tolist() == [i % 3 for i in range(7)]
    assert features.flatten().tolist() == list(range(7))
    assert features.dtype == torch.float32


def test_every_rank_gets_all(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch, torch.distributed as dist\n"
        f"sys.path.insert(0, {str(__file__.rpartition('/')[0])!r})\n"
        "from test_features import Share, extract_all\n"
        "dist.init_process_group('gloo')\n"
        "features, labels, indices = extract_all(torch.nn.Identity(), Share(dist.get_rank(), 3))\n"
        "assert indices.tolist() == list(range(7)) and features.flatten().tolist() == list(range(7))\n"
        "dist.destroy_process_group()\n"
    )
    on_ranks(3, script)
