"""What a checkpoint of a stage holds.  Order and augmentation are functions of the clock, so neither is in it."""

from typing import Any

from torch import nn

from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater
from dist_rmd.errors import DataError


def capture(key: str, net: nn.Module, updater: Updater, clock: Clock) -> dict[str, Any]:
    """The state to save.  `net` is the bare network, so that names do not depend on the number of ranks.

    `key` stands for all that determines the stage's result.
    """
    return {"key": key, "net": net.state_dict(), "updater": updater.state_dict(), "clock": clock.state_dict()}


def restore(checkpoints: Checkpoints, key: str, net: nn.Module, updater: Updater, clock: Clock) -> bool:
    """Load the newest valid checkpoint into all three.  False when there is none.

    Raises DataError when it was made under another `key`: going on would mix two experiments.
    """
    state = checkpoints.load_newest()
    if state is None:
        return False
    if state["key"] != key:
        raise DataError(
            f"{checkpoints.folder}: made from other images, labels or settings (key {state['key']}, now {key}): "
            "choose another name=, or move the folder away"
        )
    net.load_state_dict(state["net"])
    updater.load_state_dict(state["updater"])
    clock.load_state_dict(state["clock"])
    return True
