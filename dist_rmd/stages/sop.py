"""SOP, sparse over-parameterisation (Liu et al. 2022, https://arxiv.org/abs/2202.14026), and SOP+."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.config import StageConfig
from dist_rmd.config.key_types import NonNegativeFloat, PositiveFloat
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distributed.collectives import mean_rows, write_rows
from dist_rmd.errors import ConfigError
from dist_rmd.stages._task import TaskConfig, TaskStage
from dist_rmd.stages.base import DataInfo, batch_mean, fitted, one_hot

__all__ = ["SOP"]

EPS = 1e-4
"""least probability, as in the authors' code"""
START = 1e-8
"""standard deviation of the initial u and v"""
UNUSED = ("mixup", "kd", "relabel")
"""keys of section `task` for which a method must be a sum of terms of single labels"""


@dataclass(frozen=True)
class SOPConfig:
    """Stage `sop` (constants of the authors' code); optimizer and schedule are those of section `task`."""

    lr_u: PositiveFloat = 10.0
    """learning rate of u, constant (CIFAR-100: 1)"""
    lr_v: PositiveFloat = 10.0
    """learning rate of v, constant (asymmetric noise: 100)"""
    consistency: NonNegativeFloat = 0.0
    """weight of KL(p || p of a strong view); SOP+: 0.9"""
    balance: NonNegativeFloat = 0.0
    """weight of the cross entropy of the mean prediction to the uniform one; SOP+: 0.1"""


class SOP(TaskStage):
    """L = CE(normalised(p + s), y) + |onehot(argmax p) + s - y|^2, where s_i is the noise that is learned for image i.

    s_i = u_i^2 y_i - v_i^2 (1 - y_i), with a number u_i and a vector v_i for each image, which SGD without momentum
    moves together with the network.  They begin next to 0, so that s stays sparse.  v is moved by the second term
    alone.  SOP+ adds consistency with a strong view of each image and balance of the classes (sec. 4.1).
    """

    sections: ClassVar[Mapping[str, type]] = {**TaskStage.sections, "sop": SOPConfig}

    @classmethod
    def check(cls, config: StageConfig) -> None:
        for key in UNUSED:
            if getattr(config.section(TaskConfig), key):
                raise ConfigError(f"task.{key}: sop learns the noise of each image's own label alone: leave it out")

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        super().__init__(config, data, inputs)
        self.config = config.section(SOPConfig)
        self.views = ("weak", "strong") if self.config.consistency else ("weak",)
        self.memory = {
            "u": START * torch.randn(data.images, 1),
            "v": START * torch.randn(data.images, data.classes),
        }

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        c = self.config
        logits, _ = net(torch.cat(batch.views))
        weak, *strong = (logits.float() if logits.itemsize < 4 else logits).chunk(len(batch.views))
        u, v = (self.memory[name][batch.rows].requires_grad_() for name in ("u", "v"))
        y = one_hot(batch.labels, weak.detach())
        more, less = (u.square() * y).clamp(0, 1), (v.square() * (1 - y)).clamp(0, 1)
        raised = (weak.softmax(dim=1) + more - less.detach()).clamp_min(EPS)
        prediction = F.normalize(raised, p=1, dim=1, eps=EPS).clamp(EPS, 1)
        decided = one_hot(weak.detach().argmax(dim=1), weak.detach())
        terms = {
            "task": batch_mean(-(y * prediction.log()).sum(dim=1), batch),
            "sparse": batch_mean((decided + more - less - y).square().sum(dim=1), batch),
        }
        if c.balance:
            terms["balance"] = -mean_rows(prediction, batch.sizes).clamp(EPS, 1).log().mean()
        if c.consistency:
            log_p, log_q = weak.detach().log_softmax(dim=1), strong[0].log_softmax(dim=1)
            terms["consistency"] = batch_mean((log_p.exp() * (log_p - log_q)).sum(dim=1), batch)
        weights = {"task": 1.0, "sparse": 1.0, "balance": c.balance, "consistency": c.consistency}
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        self._learn(u, v, loss, batch)
        return {
            "loss": loss,
            **{f"loss_{name}": term.detach() for name, term in terms.items()},
            "noise": batch_mean(more.detach().sum(dim=1), batch),
            **fitted(weak, batch),
        }

    def _learn(self, u: Tensor, v: Tensor, loss: Tensor, batch: Batch) -> None:
        """Move u and v of this batch's images against the gradient; `loss` is this rank's part of a mean over ranks."""
        rates, gradients = (self.config.lr_u, self.config.lr_v), torch.autograd.grad(loss, (u, v), retain_graph=True)
        for name, rows, rate, gradient in zip(("u", "v"), (u, v), rates, gradients, strict=True):
            moved = rows.detach() - rate / len(batch.sizes) * gradient
            write_rows(self.memory[name], batch.rows, moved, batch.sizes)

    def artefact(self) -> dict[str, Any]:
        """The network; u: N x 1 and v: N x C."""
        return {**super().artefact(), "u": self.memory["u"], "v": self.memory["v"]}
