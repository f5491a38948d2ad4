"""An evaluation of several networks of one stage."""

from collections.abc import Mapping

from torch import nn

from dist_rmd.evaluation._splits import Splits
from dist_rmd.registry import lookup


def measured(evaluation: str, nets: Mapping[str, nn.Module], splits: Splits) -> dict[str, float]:
    """What dist_rmd/evaluation/<evaluation>.py says of each network, which is in evaluation mode meanwhile.

    Tags of the network "" come first, as they are; those of any other end in _<name>.  Every rank must call it.
    """
    measure = lookup("evaluation", evaluation)
    metrics: dict[str, float] = {}
    for name in sorted(nets):
        was_training = nets[name].training
        found = measure(nets[name].eval(), splits)
        nets[name].train(was_training)
        metrics |= {f"{tag}_{name}" if name else tag: value for tag, value in found.items()}
    return metrics
