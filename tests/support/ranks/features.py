"""Every rank has the features of all images, in order."""

import torch
import torch.distributed as dist
from torch import nn

from dist_rmd.data.loading.batch import Batch
from dist_rmd.evaluation._features import extract_all


class Share:
    """Every `world`-th of 7 images whose pixels are their index, last first."""

    def __init__(self, rank, world):
        self.rows = torch.arange(rank, 7, world).flip(0).split(2)

    def epoch(self, epoch):
        for rows in self.rows:
            yield Batch((rows[:, None].half(),), rows % 3, rows, rows, (len(rows),))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    features, labels, indices = extract_all(nn.Identity(), Share(dist.get_rank(), dist.get_world_size()))
    assert indices.tolist() == list(range(7))
    assert features.flatten().tolist() == list(range(7))
    assert labels.tolist() == [i % 3 for i in range(7)]
    dist.destroy_process_group()
