"""Means of loss terms between two log points, kept on the device."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from dist_rmd.collectives import all_gather_rows, all_reduce_sum, rank, world_size

T = TypeVar("T")


class Meters:
    """Sums terms without a device synchronisation at each step; `reduce` does one, and one all_reduce."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: Tensor | None = None
        self._names: list[str] = []
        self.steps = self._images = 0
        self._waited = self._trained = 0.0
        self.resume_timer()

    def resume_timer(self) -> None:
        """Time passed since the last `add` was not training (an evaluation, a checkpoint)."""
        self._since = time.perf_counter()

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
        """Count one step: `terms` are 0-d, `images` the size of the global batch."""
        values = torch.stack([term.detach().double() for term in terms.values()])
        self._names = list(terms)
        self._sums = values if self._sums is None else self._sums + values
        self.steps += 1
        self._images += images
        self._trained += time.perf_counter() - self._since
        self.resume_timer()

    def reduce(self) -> dict[str, float]:
        """Means over steps and ranks since the last call, and the speed.  Every rank must call it, after an `add`.

        {"train/<term>": mean, "perf/images_per_s": of all ranks together, "perf/data_wait_frac": share of the time in
        which this rank waited for data}
        """
        assert self._sums is not None
        means = (all_reduce_sum(self._sums) / (self.steps * world_size())).tolist()  # waits for the device
        seconds = self._trained + time.perf_counter() - self._since
        result = {f"train/{name}": mean for name, mean in zip(self._names, means, strict=True)}
        result["perf/images_per_s"] = self._images / seconds
        result["perf/data_wait_frac"] = self._waited / seconds
        self._clear()
        return result

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, one row a rank; times are not part of it.  Every rank must call it."""
        if self._sums is None:
            return {"steps": 0}
        sums = all_gather_rows(self._sums[None], [1] * world_size()).cpu()
        return {"steps": self.steps, "names": list(self._names), "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on with the sums of `state_dict`, also on another number of ranks."""
        self._clear()
        if not state["steps"]:
            return
        self.steps, self._names, sums = state["steps"], list(state["names"]), state["sums"]
        own = sums[rank()] if len(sums) == world_size() else sums.mean(0)
        self._sums = own.to(device)
