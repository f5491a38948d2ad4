from itertools import chain

import numpy as np
import pytest
import torch

from dist_rmd.data.augment.views import Views
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.balanced import Balanced
from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.errors import ConfigError

LABELS = LabelView(np.arange(5, 45), np.arange(40) % 10, None, 10)
IS_FIRST = np.arange(40) % 4 > 0
"""30 images of the first set, 10 of the second"""


@pytest.fixture(scope="module")
def memory(beton):
    return MemoryReader(beton[0], torch.device("cpu"))


def make(memory, batch_size=9, rank=0, world=1, is_first=IS_FIRST):
    views = Views(["plain"], 8, (0.5,) * 3, (0.25,) * 3, seed=1, compiled=False)
    return Balanced(memory, LABELS, is_first, views, batch_size, 1, rank, world)


def indices(loader, epoch, start=0):
    return [batch.indices.tolist() for batch in loader.epoch(epoch, start)]


def test_each_batch_is_half_of_the_first_set_and_passes_over_both_go_on(memory):
    loader = make(memory)
    assert len(loader) == 30 // 4
    first = set(LABELS.indices[IS_FIRST].tolist())
    epochs = [indices(loader, epoch) for epoch in range(2)]
    halves = [[(batch[:4], batch[4:]) for batch in epoch] for epoch in epochs]
    for epoch in halves:
        seen = [index for batch, _ in epoch for index in batch]
        assert len(set(seen)) == len(seen) == 28
        assert set(seen) <= first
    others = [index for epoch in halves for _, batch in epoch for index in batch]  # 70: seven passes over ten images
    for start in range(0, 70, 10):
        assert set(others[start : start + 10]) == set(LABELS.indices.tolist()) - first
    assert halves[0] != halves[1]


def test_any_rank_and_any_restart_has_its_part_of_the_same_batches(memory):
    whole = indices(make(memory), 1)
    parts = [indices(make(memory, rank=rank, world=3), 1) for rank in range(3)]
    assert [[*chain(*batch)] for batch in zip(*parts, strict=True)] == whole
    assert indices(make(memory), 1, start=4) == whole[4:]


def test_too_few_images_of_the_first_set_are_told(memory):
    with pytest.raises(ConfigError, match="half of batch_size=40, but there are only 10 images to draw it from"):
        make(memory, batch_size=40, is_first=~IS_FIRST)
