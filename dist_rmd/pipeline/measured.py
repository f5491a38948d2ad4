"""Runs one evaluation on all networks of a stage, such as a student and its moving average."""

from collections.abc import Mapping

from torch import nn

from dist_rmd.evaluation._splits import Splits
from dist_rmd.registry import lookup


def measured(evaluation: str, nets: Mapping[str, nn.Module], splits: Splits) -> dict[str, float]:
    """Metrics of every network by dist_rmd/evaluation/<evaluation>.py.  Every rank must call it.

    nets: name -> network; "" is the network that the stage's accuracy is of.  Metrics of any other network have the
    suffix _<name>.  Networks are in evaluation mode meanwhile, and return to their mode afterwards.
    """
    measure = lookup("evaluation", evaluation)
    metrics: dict[str, float] = {}
    for name in sorted(nets):
        was_training = nets[name].training
        found = measure(nets[name].eval(), splits)
        nets[name].train(was_training)
        metrics |= {f"{tag}_{name}" if name else tag: value for tag, value in found.items()}
    return metrics
