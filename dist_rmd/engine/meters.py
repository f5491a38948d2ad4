"""Means of loss terms between two log points, kept on the device."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from dist_rmd.distributed.collectives import all_gather_rows, all_reduce_sum, rank, world_size

T = TypeVar("T")


class Meters:
    """Sums terms without a device synchronisation at each step; `reduce` does one, and one all_reduce.

    A term is a number (0-d), reduced to its mean over steps and ranks, or two numbers (part, whole), reduced to the sum
    of all parts over the sum of all wholes.  Steps may have different terms.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        # Sums by kind of step; steps of a kind have the same terms.  The key is (name, 1 or 2 numbers) of each term.
        self._sums: dict[tuple[tuple[str, int], ...], Tensor] = {}
        self._counts: dict[tuple[tuple[str, int], ...], int] = {}
        self._images = 0
        self._waited = self._trained = self._computed = 0.0
        self.resume_timer()

    @property
    def steps(self) -> int:
        """Number of steps since the last `reduce`."""
        return sum(self._counts.values())

    def resume_timer(self) -> None:
        """Time passed since the last `add` was not training (an evaluation, a checkpoint)."""
        self._since, self._since_cpu = time.perf_counter(), time.process_time()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass `batches` through, counting the time that each one is waited for."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def add(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Count one step of these terms; `images`: the size of the global batch."""
        kind = tuple((name, term.numel()) for name, term in terms.items())
        values = torch.cat([term.detach().reshape(-1) for term in terms.values()]).double()
        self._sums[kind] = self._sums[kind] + values if kind in self._sums else values
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._images += images
        self._count_time()

    def reduce(self) -> dict[str, float]:
        """Reduce the terms over steps and ranks since the last call, and measure the speed.

        Every rank must call it, after an `add`.  {"train/<term>": value, "perf/images_per_s": of all ranks together,
        "perf/data_wait_frac": share of the time in which this rank waited for data, "perf/train_s": seconds of these
        steps, without those of evaluations and checkpoints, "perf/cpu_s": CPU seconds of this rank's process in these
        seconds, of all its threads}; a term whose wholes are 0 is left out.
        """
        totals = all_reduce_sum(torch.cat([*self._sums.values()])).tolist()  # waits for the device
        parts, wholes = self._taken_apart(totals, world_size())
        self._count_time()
        seconds = self._trained
        result = {f"train/{name}": part / wholes[name] for name, part in parts.items() if wholes[name]}
        result["perf/images_per_s"] = self._images / seconds
        result["perf/data_wait_frac"] = self._waited / seconds
        result["perf/train_s"] = seconds
        result["perf/cpu_s"] = self._computed
        self._clear()
        return result

    def _count_time(self) -> None:
        """Count the time passed since the last call, or since `resume_timer`, as training."""
        self._trained += time.perf_counter() - self._since
        self._computed += time.process_time() - self._since_cpu
        self.resume_timer()

    def _taken_apart(self, totals: Sequence[float], ranks: int) -> tuple[dict[str, float], dict[str, float]]:
        """Each term's sum and what it is to be divided by."""
        parts: dict[str, float] = defaultdict(float)
        wholes: dict[str, float] = defaultdict(float)
        numbers = iter(totals)
        for kind, count in self._counts.items():
            for name, size in kind:
                parts[name] += next(numbers)
                wholes[name] += next(numbers) if size == 2 else count * ranks
        return parts, wholes

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, one row a rank; times are not part of it.  Every rank must call it."""
        kinds = []
        for kind, sums in self._sums.items():
            rows = all_gather_rows(sums[None], [1] * world_size()).cpu()
            kinds.append({"terms": [list(term) for term in kind], "steps": self._counts[kind], "sums": rows})
        return {"kinds": kinds}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on with the sums of `state_dict`, also on another number of ranks."""
        self._clear()
        for saved in state["kinds"] if "kinds" in state else _of_one_kind(state):
            kind = tuple((name, size) for name, size in saved["terms"])
            sums = saved["sums"]
            # Where other ranks go on, each has the mean of those before as its number, and an even share of the counts.
            ranks = [len(sums) if size == 1 else world_size() for _, size in kind for _ in range(size)]
            own = sums[rank()] if len(sums) == world_size() else sums.sum(0) / torch.tensor(ranks)
            self._counts[kind], self._sums[kind] = saved["steps"], own.to(device)


def _of_one_kind(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The state that an older version saved, in today's form."""
    terms = [[name, 1] for name in state.get("names", [])]
    return [{"terms": terms, "steps": state["steps"], "sums": state["sums"]}] if state["steps"] else []
