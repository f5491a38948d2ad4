from pathlib import Path

import pytest
import torch
from support import small
from support.forked import on_ranks
from support.ranks.student import features, labels, opened, teacher

from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading import loaders as module
from dist_rmd.models.heads import frozen_classifier
from dist_rmd.stages._student import own_share, score_images


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.prepare(tmp_path_factory.mktemp("data"))


def test_rows_stand_in_the_order_of_the_labels(data):
    found, view = features(data), labels()
    assert found[:, -1].tolist() == view.given.tolist()
    net, dataset = frozen_classifier(teacher()), opened(data)
    alone = LabelView(view.indices[[5]], view.given[[5]], None, 10)
    (batch,) = dataset.evaluation("train", alone).epoch(0)
    torch.testing.assert_close(found[5, :-1], net(*batch.views)[0][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_finds_the_same_bits(data, ranks, tmp_path):
    """On 3 ranks the third of them has nothing but the last 76 images."""
    on_ranks(ranks, "student", data, tmp_path)
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
    score_images(opened(data), labels(), lambda images, _: images[:, 0, 0], told.append)
    assert told == [1 / 3, 2 / 3, 1]

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_images(opened(data), labels(), lambda images, _: images[:, 0, 0], stop)


def test_the_teacher_is_frozen():
    net = frozen_classifier(teacher())
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(net.head.weight, teacher()["head"]["weight"])
