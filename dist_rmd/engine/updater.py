"""One optimizer step: learning rate, backward, gradient scaling, clipping, SGD."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from dist_rmd.config import Optimization
from dist_rmd.engine import schedule
from dist_rmd.engine.clock import Clock

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """bf16, fp16 or fp32: `auto` is bf16 on GPUs and fp32 on CPUs."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"


class Updater:
    """SGD with everything around it.  `precision` is bf16, fp16 (with a GradScaler) or fp32."""

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
        self.optimizer = torch.optim.SGD(
            groups, lr=self.base_lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
        if config.momentum:
            # torch would allocate them in the first step, and leave them unwritten when the scaler skips that step.
            for parameter in self._parameters():
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self) -> AbstractContextManager:
        """The context in which the forward pass runs."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def __call__(self, loss: Tensor, clock: Clock) -> None:
        """Differentiate `loss` (0-d) and move the parameters once."""
        self._set_lr(clock)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.config.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters(), self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _set_lr(self, clock: Clock) -> None:
        scaled = self.base_lr * schedule.factor(self.config, clock.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.base_lr if group.get("constant_lr") else scaled

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def lr(self) -> float:
        """Learning rate of the last step (of the first parameter group)."""
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
