"""The agreement of all ranks at every optimizer step, before the weights change.

Is every loss term finite on every rank?  Has any rank received a stop signal?  Is a checkpoint due?  One small
all-reduce between CPUs answers the three questions for all ranks, while the GPU works on the backward pass.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.finite import not_finite
from dist_rmd.engine.signals import StopRequest
from dist_rmd.errors import NonFiniteLoss

POLL = 2e-5  # seconds
SHOWN = 8  # sample indices in a message; exit.json has them all


class StepCheck:
    """One object for each stage and rank: `note` after the forward pass, `agree` before the weights change.

    minutes: time between two checkpoints within an epoch.
    """

    def __init__(self, stage: str, peers: RankGroup, request: StopRequest, minutes: float):
        self.stage, self.peers, self.request, self.minutes = stage, peers, request, minutes
        self.stop_signal = 0
        """stop signal that any rank had received at the last `agree`; 0 for none"""
        self.save_due = False
        """whether a checkpoint was due at the last `agree`"""
        self.saved()

    def saved(self) -> None:
        """Note that a checkpoint has been written: the next one is due in `minutes`."""
        self.save_due = False
        self._next = time.monotonic() + 60 * self.minutes

    def note(self, terms: Mapping[str, Tensor], indices: Tensor) -> None:
        """Check this rank's 0-d loss terms for NaN and infinity, without a CPU-GPU sync.

        indices: of this rank's samples, for the error message.
        """
        losses = {name: term.detach().reshape(1) for name, term in terms.items() if not term.dim()}
        self._names, self._indices = list(losses), indices
        bad = not_finite(torch.cat([*losses.values()]))  # in the widest of their types
        self._copied = None
        if bad.is_cuda:  # the copy ends with the forward pass; the backward pass is queued after the copy
            bad = torch.empty_like(bad, device="cpu", pin_memory=True).copy_(bad, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._bad = bad

    def agree(self, clock: Clock) -> None:
        """Let all ranks agree.  All ranks raise NonFiniteLoss when a term of any rank is not finite."""
        deadline = time.monotonic() + self.peers.timeout
        while self._copied and not self._copied.query():  # synchronize() would never return if a rank hangs
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
