"""The robust loss that a configuration asks for: one file of dist_rmd/losses, or a weighted sum of several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from dist_rmd.errors import ConfigError
from dist_rmd.registry import lookup

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossConfig:
    """The robust loss."""

    name: str = "ce"
    """a file of dist_rmd/losses, or a sum of several such as nce+agce"""
    weights: dict[str, float] = field(default_factory=dict)
    """of the terms of a sum, such as loss.weights.agce=4 (1 where there is none)"""
    options: dict[str, Any] = field(default_factory=dict)
    """hyper-parameters, such as loss.options.q=0.7; within a sum loss.options.agce.q=1.5"""
    preset: Literal["cifar10", "cifar100"] | None = None
    """take the constants published for this dataset wherever weights and options do not say otherwise"""


PRESETS: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "cifar10": {
        "sce": {"sce": {"a": 0.1, "b": 1}},
        "nce+rce": {"nce": {"weight": 1}, "rce": {"weight": 1}},
        "nce+mae": {"nce": {"weight": 1}, "mae": {"weight": 0.5}},
        "nce+agce": {"nce": {"weight": 1}, "agce": {"weight": 4, "a": 6, "q": 1.5}},
        "nce+aul": {"nce": {"weight": 1}, "aul": {"weight": 4, "a": 6.3, "q": 1.5}},
        "nce+ael": {"nce": {"weight": 1}, "ael": {"weight": 4, "a": 5}},
    },
    "cifar100": {
        "sce": {"sce": {"a": 6, "b": 0.1}},
        "nce+rce": {"nce": {"weight": 10}, "rce": {"weight": 0.1}},
        "nce+mae": {"nce": {"weight": 10}, "mae": {"weight": 0.5}},
        "nce+agce": {"nce": {"weight": 10}, "agce": {"weight": 0.1, "a": 1.8, "q": 3}},
        "nce+aul": {"nce": {"weight": 10}, "aul": {"weight": 0.015, "a": 6, "q": 3}},
        "nce+ael": {"nce": {"weight": 10}, "ael": {"weight": 0.1, "a": 1.5}},
    },
}
"""dataset -> name of the loss -> term -> the term's weight and hyper-parameters, as published: NCE+RCE and NCE+MAE by
Ma et al. 2020 (whose MAE is half of this package's MAE, hence the weight 0.5); NCE+AGCE, NCE+AUL and NCE+AEL by Zhou et
al. 2021; SCE by both.  Each of the other losses has a single published default."""


def robust_loss(
    name: str,
    *,
    weights: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    preset: Literal["cifar10", "cifar100"] | None = None,
) -> Loss:
    """A robust loss, or a weighted sum of several: (logits N x C, labels N int64) -> N values, one for each sample.

    name: a file of dist_rmd/losses (ce, gce, sce, nce, agce, ...), or a sum such as "nce+agce".
    weights: weights of the terms of a sum, by name; 1 for a term without a weight.
    options: hyper-parameters under their names in the paper, such as {"q": 0.7} for gce; for a sum, by term, such as
        {"agce": {"q": 1.5}}.
    preset: take the constants published for this dataset wherever weights and options do not say otherwise.
    Raises ConfigError for an unknown name or term, and for a value outside its range.

    >>> import torch
    >>> from dist_rmd import robust_loss
    >>> loss = robust_loss("nce+agce", preset="cifar10")
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]], requires_grad=True)
    >>> values = loss(logits, torch.tensor([0, 1]))
    >>> values.shape
    torch.Size([2])
    >>> values.mean().backward()
    """
    names = name.split("+")
    published: Mapping[str, Mapping[str, float]] = PRESETS.get(preset or "", {}).get(name, {})
    weights, options = weights or {}, options or {}
    by_term = options if len(names) > 1 else {name: options}
    for what, given in (("weights", weights), ("options", by_term)):
        if unknown := given.keys() - set(names):
            raise ConfigError(f"loss.{what}.{min(unknown)}: loss.name={name} has no such term")
    terms = []
    for term in names:
        constants = {"weight": 1.0, **published.get(term, {})}
        weight = weights.get(term, constants.pop("weight"))
        try:
            terms.append((weight, lookup("losses", term)(**{**constants, **by_term.get(term, {})})))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"loss.options of {term}: {error}") from None
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]

    def weighted_sum(logits: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([weight * loss(logits, labels) for weight, loss in terms]).sum(dim=0)

    return weighted_sum


def configured(config: LossConfig) -> Loss:
    """The robust loss that a run's section `loss` asks for."""
    return robust_loss(config.name, weights=config.weights, options=config.options, preset=config.preset)
