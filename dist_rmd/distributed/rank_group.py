"""Agreements between the CPUs of all ranks, and the names of ranks that died or hang.

Agreements use a gloo group of their own, so that a hanging GPU or collective does not block them.  The roll call after
a failure uses the rendezvous store, which works even when no other rank is alive.
"""

import re
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from dist_rmd.errors import LostPeer

LOST = {"closed by peer": 2.0, "reset by peer": 2.0, "broken pipe": 2.0, "timed out": 5.0, "timeout": 5.0}
"""how torch's messages speak of a rank that died or hangs (it has no exception of its own for gloo), and the seconds
in which every rank that lives has noticed, since all of them wait for the same rank"""


class RankGroup:
    """All ranks of the default process group, which must have been initialised with `store`; or one process alone.

    timeout: seconds to wait for other ranks.
    """

    def __init__(self, rank: int, size: int, timeout: float, store: dist.Store | None = None):
        self.rank, self.size, self.timeout, self._store = rank, size, timeout, store
        if size > 1:
            self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    @property
    def leads(self) -> bool:
        """True on rank 0, which takes the decisions of a single rank."""
        return self.rank == 0

    def highest(self, values: list[int]) -> list[int]:
        """The maximum over all ranks of each value, on every rank."""
        if self.size == 1:
            return values
        highest = torch.tensor(values)
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=self._group)
        return highest.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank.  Also a barrier."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def explain(self, error: Exception) -> Exception:
        """The error to raise in place of `error`: LostPeer, which names the ranks, if other ranks died or hang."""
        text = " ".join(str(error).split())
        of_torch = isinstance(error, RuntimeError)  # a file system's "connection timed out" is an OSError
        patience = [seconds for words, seconds in LOST.items() if words in text.lower()]
        if self.size == 1 or not of_torch or not patience:
            return error
        missing = self._roll_call(max(patience))
        if missing:
            who = f"rank {', '.join(map(str, missing))} of {self.size} does not answer: it died, or hangs"
        else:
            who = f"a rank was kept waiting for more than dist.timeout={self.timeout:g} s, or is leaving with an error"
        cause = re.sub(r"\[[^]]*\]:?\d* *", "", text).partition(". ")[0]  # without files and addresses
        return LostPeer(f"{who}; start again to go on from the newest checkpoint ({cause})")

    def _roll_call(self, seconds: float) -> list[int]:
        """Ranks that do not report within so many seconds."""
        assert self._store is not None
        missing = list(range(self.size))
        try:
            self._store.set(f"roll call/{self.rank}", "here")
            deadline = time.monotonic() + seconds
            while missing and time.monotonic() < deadline:
                missing = [rank for rank in missing if not self._store.check([f"roll call/{rank}"])]
                time.sleep(0.1)
        except RuntimeError:  # the launcher that serves the store is gone, or rank 0 where that one serves it
            return []
        return missing
