"""The loader: the same global batches, to the bit, on any number of ranks, from any reader, after any restart."""

import itertools
import threading

import numpy as np
import pytest
import torch
from support.forked import on_ranks

from dist_rmd.data.augment.views import Views
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.ffcv_reader import BetonReader
from dist_rmd.data.loading.loader import Loader
from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.errors import ConfigError

CPU = torch.device("cpu")
TRAIN = ["strong", "weak"]


@pytest.fixture(scope="module")
def memory(beton) -> MemoryReader:
    return MemoryReader(beton[0], CPU)


@pytest.fixture(scope="module")
def labels() -> LabelView:
    """190 of the beton's 203 images, in an order of their own."""
    generator = np.random.default_rng(0)
    indices = generator.permutation(203)[:190]
    return LabelView(indices, generator.integers(0, 10, 190), None, 10)


def make(reader, labels, batch_size=64, rank=0, world=1, kinds=TRAIN, seed=1, **options) -> Loader:
    views = Views(kinds, 8, (0.5,) * 3, (0.25,) * 3, seed=seed, compiled=False)
    return Loader(reader, labels, views, batch_size, seed, rank, world, **options)


def tensors(batch: Batch) -> tuple[torch.Tensor, ...]:
    return (*batch.views, batch.labels, batch.indices)


def assert_equal(ours, theirs) -> None:
    for one, two in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, one, two))


def over_ranks(reader, labels, world, epoch, start=0, **options) -> list[tuple[torch.Tensor, ...]]:
    """The global batches, put together from loaders of all ranks."""
    ranks = [list(make(reader, labels, rank=r, world=world, **options).epoch(epoch, start)) for r in range(world)]
    return [tuple(map(torch.cat, zip(*map(tensors, parts), strict=True))) for parts in zip(*ranks, strict=True)]


def test_batches_hold_the_images_and_labels_they_name(memory, labels, beton):
    given = dict(zip(labels.indices.tolist(), labels.given.tolist(), strict=True))
    for batch in make(memory, labels, kinds=["plain", "plain"]).epoch(0):
        expected = (beton[1][batch.indices].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        for view in batch.views:
            assert torch.equal(view, expected)
            assert view.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.tolist() == [given[i] for i in batch.indices.tolist()]
        assert labels.indices[batch.rows].tolist() == batch.indices.tolist()
        assert batch.labels.dtype == batch.indices.dtype == batch.rows.dtype == torch.int64
        assert batch.share == 1


def test_batches_say_which_labels_are_right_where_that_is_known(memory, labels):
    true = labels.given.copy()
    true[::3] = (true[::3] + 1) % 10
    true[1::30] = -1  # of none of the classes
    known = LabelView(labels.indices, labels.given, true, 10).part(np.arange(100, 20, -1))
    for batch in make(memory, known).epoch(0):
        assert batch.right is not None
        assert batch.right.tolist() == (labels.given == true)[batch.rows].tolist()
        assert labels.indices[batch.rows].tolist() == batch.indices.tolist()
    unknown = LabelView(labels.indices, labels.given, None, 10)
    assert next(make(memory, unknown).epoch(0)).right is None


def test_an_epoch_is_a_permutation_cut_into_full_batches(memory, labels):
    loader = make(memory, labels)
    epochs = [[batch.indices for batch in loader.epoch(epoch)] for epoch in range(2)]
    for batches in epochs:
        assert len(loader) == len(batches) == 2
        assert [len(batch) for batch in batches] == [64, 64]
        seen = torch.cat(batches).tolist()
        assert len(set(seen)) == 128
        assert set(seen) < set(labels.indices.tolist())
    assert not torch.equal(epochs[0][0], epochs[1][0])


def test_ffcv_and_memory_serve_the_same_bits(memory, labels, beton):
    expected = list(map(tensors, make(memory, labels).epoch(3)))
    for workers in (1, 2):
        assert_equal(map(tensors, make(BetonReader(beton[0], workers, CPU), labels).epoch(3)), expected)


@pytest.mark.parametrize("reader", ["memory", "ffcv"])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_same_global_batches(memory, labels, beton, world, reader):
    """Batches of 50, which three and four ranks share unevenly; also from the middle of an epoch on."""
    source = memory if reader == "memory" else BetonReader(beton[0], 1, CPU)
    whole = list(map(tensors, make(memory, labels, batch_size=50).epoch(4)))
    assert len(whole) == 3
    assert_equal(over_ranks(source, labels, world, epoch=4, batch_size=50), whole)
    assert_equal(over_ranks(source, labels, world, epoch=4, start=2, batch_size=50), whole[2:])


def test_real_ranks_share_the_same_global_batches(memory, labels, beton, tmp_path):
    labels.save(tmp_path / "labels.npz")
    on_ranks(2, "loader", beton[0], tmp_path / "labels.npz", tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    whole = list(make(memory, labels, batch_size=63).epoch(2))
    assert len(whole) == len(ranks[0]) == len(ranks[1]) == 3
    for batch, first, second in zip(whole, *ranks, strict=True):
        assert_equal([tensors(batch)], [map(torch.cat, zip(first[:-1], second[:-1], strict=True))])
        shares = torch.stack([first[-1], second[-1]])
        torch.testing.assert_close(shares, torch.tensor([32 * 2 / 63, 31 * 2 / 63]))


def test_a_restarted_epoch_equals_the_first_time(memory, labels):
    loader = make(memory, labels, batch_size=40)
    first = [list(map(tensors, loader.epoch(epoch))) for epoch in range(3)]
    assert_equal(map(tensors, make(memory, labels, batch_size=40).epoch(2)), first[2])
    for start in range(5):
        assert_equal(map(tensors, make(memory, labels, batch_size=40).epoch(1, start=start)), first[1][start:])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_serves_every_sample_once(memory, labels, world):
    """189 = 2 * 94 + 1: in the last batch only the first rank finds a sample."""
    one_left = LabelView(labels.indices[:189], labels.given[:189], None, 10)
    options = {"kinds": ["plain"], "shuffle": False, "drop_last": False, "batch_size": 94}
    loaders = [make(memory, one_left, rank=rank, world=world, **options) for rank in range(world)]
    assert {len(loader) for loader in loaders} == {3}
    ranks = [list(loader.epoch(0)) for loader in loaders]
    assert [len(batches) for batches in ranks] == [3] + [2] * (world - 1)
    served = torch.cat([batch.indices for batches in ranks for batch in batches])
    assert sorted(served.tolist()) == sorted(one_left.indices.tolist())
    if world == 1:
        assert served.tolist() == one_left.indices.tolist()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_share_turns_means_of_ranks_into_the_mean_of_the_batch(memory, labels, world):
    ranks = [list(make(memory, labels, rank=r, world=world, drop_last=False).epoch(0)) for r in range(world)]
    for parts in zip(*ranks, strict=True):
        means = [batch.indices.double().mean() * batch.share for batch in parts]
        whole = torch.cat([batch.indices for batch in parts]).double().mean()
        assert torch.stack(means).mean().item() == pytest.approx(whole.item())


def test_leaving_an_epoch_early_ends_the_reading(labels, beton):
    reader = BetonReader(beton[0], 1, CPU)
    loader = make(reader, labels, batch_size=10)
    next(loader.epoch(0))
    before = threading.active_count()
    for batch in loader.epoch(0):
        assert len(batch.indices) == 10
        break
    assert threading.active_count() == before


def test_impossible_batches(memory, labels):
    with pytest.raises(ConfigError, match="batch_size=191 but there are only 190 images"):
        make(memory, labels, batch_size=191)
    with pytest.raises(ConfigError, match=r"a batch of 2 images \(batch_size=2\) leaves some of 3 ranks none"):
        make(memory, labels, batch_size=2, world=3)
    with pytest.raises(ConfigError, match=r"a batch of 1 images \(batch_size=63\)"):  # 190 = 3 * 63 + 1
        make(memory, labels, batch_size=63, world=2, drop_last=False)
    assert len(make(memory, labels, batch_size=2, world=3, shuffle=False, drop_last=False)) == 95


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_aligned_parts_are_the_same_images_together_on_any_number_of_ranks(memory, labels, world):
    """190 images, 20 a rank: networks that see them in the same company give the same bits."""
    own = {"shuffle": False, "drop_last": False, "aligned": True}
    ranks = [list(make(memory, labels, 20 * world, rank, world, **own).epoch(0)) for rank in range(world)]
    parts = [batch.indices.tolist() for batches in itertools.zip_longest(*ranks) for batch in batches if batch]
    order = labels.indices.tolist()
    assert parts == [order[start : start + 20] for start in range(0, 190, 20)]
    for batches in itertools.zip_longest(*ranks):
        there = [batch for batch in batches if batch]
        assert all(batch.sizes[: len(there)] == tuple(len(b.indices) for b in there) for batch in there)


def test_a_batch_says_which_one_it_is(memory, labels):
    assert [(b.epoch, b.number) for b in make(memory, labels, 64).epoch(3, start=1)] == [(3, 1)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["memory", "ffcv"])
def test_a_busy_gpu_gets_the_same_batches(memory, labels, beton, kind):
    """They are made on another stream than the one that is busy, and their memory is not used again too early."""
    device = torch.device("cuda")
    reader = MemoryReader(beton[0], device) if kind == "memory" else BetonReader(beton[0], 1, device)
    busy = torch.eye(4096, device=device)
    expected = make(memory, labels, batch_size=16).epoch(3)
    summed = []
    for batch in make(reader, labels, batch_size=16).epoch(3):
        for _ in range(50):
            busy = busy @ busy
        summed.append((batch.views[0] + busy[0, 0] - 1, batch.views[1], batch.labels, batch.indices))
    for ours, theirs in zip(summed, expected, strict=True):
        for one, other in zip(ours, tensors(theirs), strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-5)
