"""Run by test_loader.py on every rank: what this rank is served in epoch 2 of a beton, as OUT/rank<N>.pt."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from dist_rmd.data.augment.views import Views
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.ffcv_reader import BetonReader
from dist_rmd.data.loading.loader import Loader

path, labels, out = map(Path, sys.argv[1:])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
views = Views(["strong", "weak"], 8, (0.5,) * 3, (0.25,) * 3, seed=1, compiled=False)
loader = Loader(BetonReader(path, 1, torch.device("cpu")), LabelView.load(labels), views, 63, 1, rank, world)
batches = [(*batch.views, batch.labels, batch.indices, torch.tensor(batch.share)) for batch in loader.epoch(2)]
torch.save(batches, out / f"rank{rank}.pt")
dist.destroy_process_group()
