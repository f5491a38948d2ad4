"""The nearest of many unit vectors by cosine: among all of them, or, where there are very many, among those alike.

Comparing each of N vectors with each other takes N squared steps: days for a million.  More than EXACT vectors are
therefore cut into cells of equal size, by halving along the line between two means, and a vector is compared with
those of the PROBED cells nearest to its own cell: time grows as N log N.  A neighbour in none of these cells is missed,
and a farther one stands in its place.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

EXACT = 2**16  # vectors that are compared all with all
CELL, PROBED = 2**12, 8  # most vectors in a cell; cells whose vectors are compared
SAMPLE, STEPS = 2**10, 4  # vectors by which a cell's two means are found, in so many steps
ROWS, COLUMNS = 1024, 2**14  # cosines in memory at a time: 64 MiB


class Bank:
    """N x D unit rows (float32), among which nearest ones are sought.

    compared: about how many of the rows each query is compared with, at most N.
    """

    def __init__(self, unit: Tensor):
        self.unit = unit
        everything = torch.arange(len(unit), device=unit.device)
        self.cells = [everything] if len(unit) <= EXACT else [*_halves(unit, everything)]
        self.centres = F.normalize(torch.stack([unit[cell].mean(0) for cell in self.cells]))
        # Each cell first among those nearest to it.
        nearby = (self.centres @ self.centres.T).fill_diagonal_(2).topk(min(PROBED, len(self.cells))).indices
        self._alike = [torch.cat([self.cells[other] for other in row]) for row in nearby.tolist()]
        self.compared = max(map(len, self._alike))

    def of(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(positions int32, cosines), n x k, of the rows nearest to queries, n x D unit rows, by falling cosine."""
        cell = torch.cat([(rows @ self.centres.T).argmax(dim=1) for rows in queries.split(ROWS)])
        return self._sought([(cell == number).nonzero()[:, 0] for number in range(len(self.cells))], queries, k)

    def of_own(self, k: int) -> tuple[Tensor, Tensor]:
        """The same of each of the N rows themselves, none of which is its own neighbour; k < N."""
        return self._sought(self.cells, self.unit, k, themselves=True)

    def _sought(self, groups: list[Tensor], queries: Tensor, k: int, themselves: bool = False) -> tuple[Tensor, Tensor]:
        """groups: by cell, the queries that are compared with the rows alike."""
        positions = torch.empty(len(queries), k, dtype=torch.int32, device=queries.device)
        cosines = torch.empty(len(queries), k, device=queries.device)
        for group, alike in zip(groups, self._alike, strict=True):
            rows = self.unit if len(self.cells) == 1 else self.unit[alike]
            for start in range(0, len(group), ROWS):
                some = group[start : start + ROWS]
                places, cosines[some] = _nearest(queries[some], rows, k, start if themselves else None)
                positions[some] = alike[places].int()
        return positions, cosines


def _halves(unit: Tensor, members: Tensor) -> Iterator[Tensor]:
    """The rows `members` in cells of at most CELL, whose sizes differ by one: cut at the median between two means."""
    if len(members) <= CELL:
        yield members
        return
    sample = unit[members[:: -(-len(members) // SAMPLE)]]
    one, other = sample[0], sample[(sample @ sample[0]).argmin()]
    for _ in range(STEPS):
        nearer = sample @ (one - other) > 0
        if nearer.all() or not nearer.any():
            break
        one, other = (F.normalize(sample[side].mean(0), dim=0) for side in (nearer, ~nearer))
    order = torch.cat([unit[part] @ (one - other) for part in members.split(COLUMNS)]).argsort(stable=True)
    for half in members[order].tensor_split(2):
        yield from _halves(unit, half)


def _nearest(queries: Tensor, rows: Tensor, k: int, own: int | None) -> tuple[Tensor, Tensor]:
    """(positions, cosines), n x k, of the unit rows nearest to n queries.

    own: the queries are rows own, own + 1, ..., none of which is its own neighbour.
    """
    positions = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    cosines = torch.empty(len(queries), 0, device=queries.device)
    for first in range(0, len(rows), COLUMNS):
        cosine = queries @ rows[first : first + COLUMNS].T
        if own is not None:
            themselves = torch.arange(own, own + len(queries), device=queries.device) - first
            here = (themselves >= 0) & (themselves < COLUMNS)
            cosine[here, themselves[here]] = -torch.inf
        values, columns = cosine.topk(min(k, cosine.shape[1]))
        cosines, order = torch.cat([cosines, values], 1).sort(dim=1, descending=True, stable=True)
        positions = torch.cat([positions, columns + first], 1).gather(1, order)[:, :k]
        cosines = cosines[:, :k]
    return positions, cosines
