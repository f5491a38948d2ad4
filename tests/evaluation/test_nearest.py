import pytest
import torch
import torch.nn.functional as F

from dist_rmd.evaluation import _nearest
from dist_rmd.evaluation._nearest import Bank


def clustered(count, seed):
    """Unit rows around 20 centres, spread as widely as the centres are apart."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    return F.normalize(torch.randn(count, 16, generator=draw) + 2 * centres[torch.arange(count) % 20])


def naive(queries, bank, k, themselves=False):
    """(positions, cosines) by the full matrix in double precision."""
    cosine = queries.double() @ bank.double().T
    if themselves:
        cosine.fill_diagonal_(-torch.inf)
    values, positions = cosine.topk(k)
    return positions, values


@pytest.fixture
def small(monkeypatch):
    """Cells of at most 100 rows from 500 rows on."""
    for name, value in {"EXACT": 500, "CELL": 100, "ROWS": 64, "COLUMNS": 150}.items():
        monkeypatch.setattr(_nearest, name, value)


@pytest.mark.parametrize(("count", "probed"), [(500, 8), (1203, 16)])
def test_where_all_are_compared_the_nearest_are_those_of_the_full_matrix(small, monkeypatch, count, probed):
    """In one cell, and in all 16."""
    monkeypatch.setattr(_nearest, "PROBED", probed)
    rows, queries = clustered(count, 1), clustered(77, 2)
    bank = Bank(rows)
    assert bank.compared == count
    for found, expected in (
        (bank.of(queries, 9), naive(queries, rows, 9)),
        (bank.of_own(9), naive(rows, rows, 9, themselves=True)),
    ):
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-6, atol=1e-6)


def test_cells_are_of_equal_size_and_hold_every_row_once(small):
    bank = Bank(clustered(1203, 1))
    assert torch.equal(torch.cat(bank.cells).sort().values, torch.arange(1203))
    assert {len(cell) for cell in bank.cells} == {75, 76}
    alone = Bank(torch.ones(1203, 16) / 4)  # nothing tells these apart
    assert {len(cell) for cell in alone.cells} == {75, 76}


def test_most_of_the_nearest_are_among_those_alike(small):
    """A quarter of the rows is compared; what stands in a missed one's place is hardly farther."""
    rows = clustered(3200, 1)
    bank = Bank(rows)
    assert bank.compared == 8 * 100
    positions, cosines = bank.of_own(10)
    exact, best = naive(rows, rows, 10, themselves=True)
    right = (positions[:, :, None] == exact[:, None]).any(2).double().mean()
    assert right > 0.9
    assert (best - cosines).mean() < 0.01
    assert not (positions == torch.arange(3200)[:, None]).any()
    assert (positions.sort(1).values.diff(dim=1) > 0).all()
