import itertools

import numpy as np
import pytest
import torch

from dist_rmd.data.augment.views import Views
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loader import Loader
from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.data.loading.paired import Paired

EPOCHS = 3


@pytest.fixture(scope="module")
def reader(beton) -> MemoryReader:
    return MemoryReader(beton[0], torch.device("cpu"))


def paired(reader, rank=0, world=1) -> Paired:
    """4 batches of 30 images in an epoch, and of 70 other ones 3 batches of 20."""
    views = Views(["weak"], 8, (0.5,) * 3, (0.25,) * 3, seed=1, compiled=False)
    labelled = LabelView(np.arange(130), np.arange(130) % 10, None, 10)
    other = LabelView(np.arange(130, 200), np.zeros(70, np.int64), None, 10)
    return Paired(*(Loader(reader, v, views, size, 1, rank, world) for v, size in ((labelled, 30), (other, 20))))


def indices(batches) -> list[tuple[list[int], list[int]]]:
    return [(batch.indices.tolist(), batch.extra.indices.tolist()) for batch in batches]


def test_an_epoch_is_one_of_the_first_loader_and_the_other_goes_on_at_its_own_pace(reader):
    loader = paired(reader)
    assert len(loader) == 4
    found = indices(itertools.chain.from_iterable(loader.epoch(epoch) for epoch in range(EPOCHS)))
    first = [batch.indices.tolist() for epoch in range(EPOCHS) for batch in loader.loader.epoch(epoch)]
    second = [batch.indices.tolist() for epoch in range(2 * EPOCHS) for batch in loader.extra.epoch(epoch)]
    assert found == list(zip(first, second, strict=False))
    assert len(found) == 4 * EPOCHS
    assert all(min(other) >= 130 for _, other in found)


@pytest.mark.parametrize("start", range(5))
def test_from_any_batch_on_it_is_the_same(reader, start):
    whole = list(paired(reader).epoch(2))
    part = list(paired(reader).epoch(2, start))
    assert indices(part) == indices(whole[start:])
    for ours, theirs in zip(part, whole[start:], strict=True):
        assert torch.equal(ours.views[0], theirs.views[0])
        assert torch.equal(ours.extra.views[0], theirs.extra.views[0])


def test_ranks_share_the_same_batches(reader):
    whole = indices(paired(reader).epoch(1))
    ranks = [indices(paired(reader, rank, 3).epoch(1)) for rank in range(3)]
    for parts, (labelled, other) in zip(zip(*ranks, strict=True), whole, strict=True):
        assert list(itertools.chain.from_iterable(part[0] for part in parts)) == labelled
        assert list(itertools.chain.from_iterable(part[1] for part in parts)) == other


def test_leaving_early_ends_both(reader):
    batches = paired(reader).epoch(0)
    next(batches)
    batches.close()
