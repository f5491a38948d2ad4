"""What all ranks find out together at every optimizer step, before the weights move.

Is every loss term finite on every rank?  Has any rank been asked to stop?  Is it time for a checkpoint?  The answers of
all ranks are one small all-reduce between CPUs, while the device is busy with the backward pass.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.signals import StopRequest
from dist_rmd.errors import NonFiniteLoss

POLL = 2e-5  # seconds
SHOWN = 8  # sample indices in a message; exit.json has them all


class StepCheck:
    """One per stage and rank, asked at every step: `note` after the forward pass, `agree` before the weights move.

    minutes: time between two checkpoints within an epoch.
    """

    def __init__(self, stage: str, peers: RankGroup, request: StopRequest, minutes: float):
        self.stage, self.peers, self.request, self.minutes = stage, peers, request, minutes
        self.stop_signal = 0
        """the signal, received by any rank, that the last step agreed to stop for; 0 for none"""
        self.save_due = False
        """the last step agreed that it is time for a checkpoint"""
        self.saved()

    def saved(self) -> None:
        """A checkpoint has been written: the next one is due `minutes` from now."""
        self.save_due = False
        self._next = time.monotonic() + 60 * self.minutes

    def note(self, terms: Mapping[str, Tensor], indices: Tensor) -> None:
        """Note which of this rank's 0-d loss terms are not finite, without waiting for the device.

        `indices` are those of this rank's samples.
        """
        losses = {name: term.detach().double() for name, term in terms.items() if not term.dim()}
        self._names, self._indices = list(losses), indices
        bad = ~torch.stack([*losses.values()]).isfinite()
        self._copied = None
        if bad.is_cuda:  # the copy is done when the forward pass is; the backward pass is queued behind it
            bad = torch.empty_like(bad, device="cpu", pin_memory=True).copy_(bad, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._bad = bad

    def agree(self, clock: Clock) -> None:
        """Let all ranks agree.  Raises NonFiniteLoss on all of them when a term of any is not finite."""
        deadline = time.monotonic() + self.peers.timeout
        while self._copied and not self._copied.query():  # synchronize() would wait for ever for a rank that hangs
            if time.monotonic() > deadline:
                raise RuntimeError(f"timed out after {self.peers.timeout:g} s waiting for the device's forward pass")
            time.sleep(POLL)
        own = [int(flag) for flag in self._bad.tolist()]
        due = int(self.peers.leads and time.monotonic() >= self._next)
        *bad, self.stop_signal, due = self.peers.highest([*own, self.request.signal, due])
        self.save_due = bool(due)
        if any(bad):
            raise self._failure(clock, own)

    def _failure(self, clock: Clock, own: list[int]) -> NonFiniteLoss:
        mine = [name for name, flag in zip(self._names, own, strict=True) if flag]
        ranks = self.peers.gather({"terms": mine, "samples": self._indices.tolist() if mine else []})
        names = sorted({name for rank in ranks for name in rank["terms"]})
        where = [str(number) for number, rank in enumerate(ranks) if rank["terms"]]
        samples: list[Any] = [index for rank in ranks for index in rank["samples"]]
        more = f" and {len(samples) - SHOWN} more (all in exit.json)" if len(samples) > SHOWN else ""
        return NonFiniteLoss(
            f"{self.stage}: {', '.join(names)} not finite in optimizer step {clock.step + 1} on rank "
            f"{', '.join(where)}; samples {', '.join(map(str, samples[:SHOWN]))}{more}; the weights are those of step "
            f"{clock.step} (a smaller learning rate usually cures it)",
            agreed=True,
            samples=samples,
        )
