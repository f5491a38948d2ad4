"""One optimizer step: learning rate, backward, gradient scaling, clipping; SGD, AdamW and Adam."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dist_rmd.config import Optimization
from dist_rmd.engine import schedule
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.finite import not_finite

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """bf16, fp16, fp32 or fp64: `auto` is bf16 on GPUs and fp32 on CPUs."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"


def parameter_dtype(precision: str) -> torch.dtype:
    """Data type of weights and views; autocast chooses the type of each operation."""
    return torch.float64 if precision == "fp64" else torch.float32


class Updater:
    """Optimizers of a stage's parameter groups (see TrainingStage.param_groups), with schedule, scaling and clipping.

    precision: bf16, fp16 (with a GradScaler), fp32 or fp64.  Learning rate, momentum and weight decay are those of
    `config` where a group has none of its own.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        config: Optimization,
        steps_per_epoch: int,
        device: torch.device,
        precision: str,
    ):
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.device = device
        self.dtype = AUTOCAST.get(precision)
        self.base_lr = schedule.initial_lr(config)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        kinds = [group.get("optimizer", config.optimizer) for group in groups]
        of = {
            kind: [_own(group, self.base_lr) for group, its in zip(groups, kinds, strict=True) if its == kind]
            for kind in ("sgd", "adamw", "adam")
        }
        if of["sgd"]:
            momentum, weight_decay, nesterov = config.momentum, config.weight_decay, config.nesterov
            sgd = torch.optim.SGD(
                of["sgd"], momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True
            )
            # torch would allocate them in the first step, and leave them unwritten when that step moves nothing.
            for group in sgd.param_groups:
                for parameter in group["params"] if group["momentum"] else ():
                    sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            self.optimizers["optimizer"] = sgd
        if of["adamw"]:
            self.optimizers["adamw"] = torch.optim.AdamW(of["adamw"], weight_decay=config.weight_decay, fused=True)
        if of["adam"]:
            self.optimizers["adam"] = torch.optim.Adam(of["adam"], fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self) -> AbstractContextManager:
        """The context in which the forward pass runs."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor, clock: Clock, moved: nn.Module | None = None) -> None:
        """Differentiate `loss` (0-d) for optimizer step number `clock.step` (from 0).  Queued on the device.

        moved: the network to update; None: all networks.  Parameters of the others get no gradient, so the optimizer
        skips them: neither momentum nor weight decay changes them.
        """
        self._set_lr(clock)
        parameters = [parameter for optimizer in self._all for parameter in _parameters(optimizer)]
        self.scaler.scale(loss).backward(inputs=None if moved is None else list(moved.parameters()))
        for optimizer in self._all:
            self.scaler.unscale_(optimizer)
        self._norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.grad_clip is not None:
            clip_grads_with_norm_(parameters, self.config.grad_clip, self._norm)

    def begin_epoch(self) -> None:
        """Forget the moments of groups with `begins_anew`: torch makes them again in the next step that moves these."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                for parameter in group["params"] if group.get("begins_anew") else ():
                    optimizer.state.pop(parameter, None)

    def step(self) -> dict[str, Tensor]:
        """Update the parameters by the gradients of `backward`, and free the gradients.

        If any gradient is not finite, no parameter changes.  Returns terms to log, 0-d each: "grad_norm" of all
        parameters before clipping, and with fp16 "amp_skipped", 1 if the step was skipped, else 0.
        """
        norm = self._norm
        skipped = not_finite(norm)
        for optimizer in self._all:
            # found_inf makes the fused kernel skip the update on the device: no CPU-GPU sync.  GradScaler.step would
            # instead let each optimizer decide by its own gradients.
            optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
            optimizer.step()
            # Now, not before the next backward pass: a CUDA graph of the next forward pass may write where they are.
            optimizer.zero_grad(set_to_none=True)
        if not self.scaler.is_enabled():
            return {"grad_norm": norm}
        self.scaler.update()
        return {"grad_norm": norm.masked_fill(skipped, 0.0), "amp_skipped": skipped.float()}

    @property
    def _all(self) -> Iterable[torch.optim.Optimizer]:
        return self.optimizers.values()

    def readings(self) -> dict[str, float]:
        """Learning rate and loss scale to log.  With fp16 this is a CPU-GPU sync."""
        lr = {"train/lr": next(iter(self._all)).param_groups[0]["lr"]}
        return lr | {"train/amp_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else lr

    def _set_lr(self, clock: Clock) -> None:
        factor = schedule.factor(self.config, clock.step, self.steps_per_epoch)
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1 if group.get("constant_lr") else factor)

    def state_dict(self) -> dict[str, Any]:
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {**states, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`, but keep weight decay and all other settings of this configuration."""
        for name, optimizer in self.optimizers.items():
            configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(state[name])
            for group, settings in zip(optimizer.param_groups, configured, strict=True):
                group.update(settings)
        self.scaler.load_state_dict(state["scaler"])


def _own(group: Mapping[str, Any], lr: float) -> dict[str, Any]:
    """The parameter group in torch's form, with the learning rate `lr` unless the group has its own."""
    initial = group.get("lr", lr)
    return {**{key: value for key, value in group.items() if key != "optimizer"}, "lr": initial, "initial_lr": initial}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
