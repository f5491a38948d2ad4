from pathlib import Path

import numpy as np
import pytest
import small
import torch
from torchrun import on_ranks

from dist_rmd.config import Augment, Data
from dist_rmd.data import source as module
from dist_rmd.data.beton import open_dataset
from dist_rmd.data.labels import LabelView
from dist_rmd.data.source import Source
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import Classifier
from dist_rmd.student import frozen_teacher, own_share, survey

SCRIPT = """
import sys
from test_student import features
from dist_rmd.engine import distributed
import torch
world = distributed.detect("cpu")
distributed.start(world, timeout=60)
torch.save(features(sys.argv[1], world.rank, world.size), f"{sys.argv[2]}/{world.rank}.pt")
distributed.stop()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.prepare(tmp_path_factory.mktemp("data"))


def labels() -> LabelView:
    """1,100 images in an order of their own: two batches of 512 and a smaller one."""
    order = np.random.default_rng(0).permutation(1437)[:1100]
    return LabelView(order, order % 10, None, 10)


def teacher() -> dict:
    torch.manual_seed(0)
    net = Classifier(encoder("resnet10", 8), 10)
    model = {"name": "resnet10", "width": 8}
    return {"encoder": net.encoder.state_dict(), "head": net.head.state_dict(), "model": model, "classes": ["x"] * 10}


def opened(data, rank=0, world=1) -> Source:
    device = torch.device("cpu")
    return Source(open_dataset(Path(data)), Data(reader="memory"), Augment(), rank, world, device, cores=1)


def features(data, rank=0, world=1) -> torch.Tensor:
    """The teacher's logits and the given labels of all images, as every rank has them."""
    net = frozen_teacher(teacher())
    torch.set_num_threads(1)

    def judge(images, given):
        return torch.cat([net(images)[0], given[:, None]], dim=1)

    return survey(opened(data, rank, world), labels(), judge, lambda share: None)


def test_rows_stand_in_the_order_of_the_labels(data):
    found, view = features(data), labels()
    assert found[:, -1].tolist() == view.given.tolist()
    net, dataset = frozen_teacher(teacher()), opened(data)
    alone = LabelView(view.indices[[5]], view.given[[5]], None, 10)
    (batch,) = dataset.evaluation("train", alone).epoch(0)
    torch.testing.assert_close(found[5, :-1], net(*batch.views)[0][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_finds_the_same_bits(data, ranks, tmp_path):
    """On 3 ranks the third of them has nothing but the last 76 images."""
    (tmp_path / "script.py").write_text(SCRIPT)
    on_ranks(ranks, tmp_path / "script.py", data, tmp_path)
    whole = features(data)
    for rank in range(ranks):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), whole)


def test_a_rank_for_which_nothing_is_left_has_no_rows(data):
    rows, indices = own_share(opened(data, rank=7, world=8), labels(), lambda images, _: images.mean(dim=(2, 3)))
    assert rows.shape == (0, 3)
    assert indices.shape == (0,)


def test_progress_is_told_and_may_stop_it(data, monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_BATCH", 400)
    told: list[float] = []
    survey(opened(data), labels(), lambda images, _: images[:, 0, 0], told.append)
    assert told == [1 / 3, 2 / 3, 1]

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(opened(data), labels(), lambda images, _: images[:, 0, 0], stop)


def test_the_teacher_is_frozen():
    net = frozen_teacher(teacher())
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(net.head.weight, teacher()["head"]["weight"])
