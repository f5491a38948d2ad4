import pytest
import torch
from support.forked import on_ranks
from support.ranks.collectives import asked, far_from_zero, rows, sizes

from dist_rmd.distributed import collectives


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_rank_holds_the_whole_in_rank_order(world, tmp_path):
    on_ranks(world, "collectives", tmp_path)
    for rank in range(world):
        result = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert result["place"] == (rank, world)
        expected = [
            (case, torch.cat([rows(r, size, dtype) for r, size in enumerate(case)]))
            for case in sizes(world)
            for dtype in (torch.float32, torch.int64)
        ]
        for (found_sizes, found), (case, whole) in zip(result["gathered"], expected, strict=True):
            assert found_sizes == case
            assert found.dtype == whole.dtype
            assert torch.equal(found, whole)
            assert not found.requires_grad
        for (found, gradient), case in zip(result["with_gradient"], sizes(world), strict=True):
            assert torch.equal(found, torch.cat([rows(r, size, torch.float32) for r, size in enumerate(case)]))
            assert torch.equal(gradient, sum(asked(r, sum(case)) for r in range(world)).split(case)[rank])
        assert result["sum"].tolist() == [sum(10.0**r for r in range(world))] * 2
        assert not result["sum"].requires_grad
        for total in result["sums"]:
            assert total.dtype == torch.int32
            assert set(total.tolist()) == {sum(10**r for r in range(world))}
        assert result["own"].tolist() == [10.0**rank] * 2  # the caller's tensor is left alone
        written = torch.zeros(9, 2)
        for r in range(world):
            for row in range(r, 9, world)[: 3 - r]:
                written[row] = 10 * row + r
        assert torch.equal(result["written"], written)
        assert [tensor.tolist() for tensor in result["first"]] == [[[1, 1], [1, 1]], 2]
        mean, var, count = result["moments"]
        whole = torch.cat([far_from_zero(r) for r in range(world)]).double()
        assert count.item() == len(whole)
        torch.testing.assert_close(mean.double(), whole.mean(0), rtol=1e-6, atol=0)
        torch.testing.assert_close(var.double(), whole.var(0, correction=0), rtol=1e-4, atol=0)


def test_one_process_needs_no_group():
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    assert collectives.gather_sizes(4, torch.device("cpu")) == [4]
    own = torch.randn(4, 3, requires_grad=True)
    for found in (collectives.all_gather_rows(own, [4]), collectives.all_reduce_sum(own)):
        assert torch.equal(found, own)
        assert not found.requires_grad
    assert collectives.gather_rows(own, [4]) is own
    total = collectives.all_reduce_sum(own)
    total += 1
    assert not torch.equal(total, own)
