"""Several ranks agreeing on what happened in a step, and finding out who died."""

import json

import pytest
from support.forked import on_ranks

from dist_rmd.distributed.rank_group import RankGroup


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    on_ranks(3, "agreement", folder)
    return folder


@pytest.fixture
def agreed(folder):
    return [json.loads((folder / f"agreed{rank}.json").read_text()) for rank in range(3)]


def test_alone():
    alone, error = RankGroup(0, 1, 30), RuntimeError("Connection closed by peer")
    assert alone.leads
    assert alone.highest([3, 1]) == [3, 1]
    assert alone.gather("x") == ["x"]
    assert alone.explain(error) is error


def test_every_rank_has_what_all_have(agreed):
    for seen in agreed:
        assert seen["highest"] == [2, 5, 7]
        assert seen["gathered"] == [{"rank": rank} for rank in range(3)]
    assert [seen["leads"] for seen in agreed] == [True, False, False]


def test_a_checkpoint_is_due_for_all_when_the_leading_ranks_time_has_come(agreed):
    for seen in agreed:
        assert seen["nothing"] == [0, True]
        assert seen["not the leading rank's clock"] is False


def test_a_signal_to_one_rank_is_enough(agreed):
    assert [seen["asked"] for seen in agreed] == [[12, False]] * 3


def test_every_rank_ends_for_the_loss_of_one_and_names_its_samples(agreed):
    samples = list(range(12, 24))
    for seen in agreed:
        message, said_once, facts = seen["not finite"]
        assert message.startswith(
            "rgrl: loss, loss_edge not finite in optimizer step 5 on rank 1; "
            "samples 12, 13, 14, 15, 16, 17, 18, 19 and 4 more (all in exit.json); the weights are those of step 4"
        )
        assert said_once
        assert facts == {"samples": samples}


def test_the_rank_that_died_is_named_by_all_others(folder):
    for rank in (0, 2):
        lost = json.loads((folder / f"lost{rank}.json").read_text())
        assert lost["type"] == "LostPeer"
        assert lost["text"].startswith("rank 1 of 3 does not answer: it died, or hangs; start again"), lost
        assert "\n" not in lost["text"]
        assert "timed out" not in lost["text"]  # found by the closed connection, not by waiting for the group's timeout
        assert lost["not explained"] == [True, True]
