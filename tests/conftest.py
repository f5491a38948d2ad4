"""Tests keep to one thread: the machine's cores belong to the ranks that the distributed tests start."""

import torch

torch.set_num_threads(1)
