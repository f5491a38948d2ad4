"""Contents of a stage's checkpoint.

Batch order and augmentation are functions of the clock, so a checkpoint holds no random state.
"""

from typing import Any

from torch import Tensor, nn

from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.metric_logger import MetricLogger
from dist_rmd.engine.trainable import Checkpointed
from dist_rmd.engine.updater import Updater
from dist_rmd.errors import DataError


def capture(
    lineage: list[str], stage: Checkpointed, updater: Updater, clock: Clock, observer: MetricLogger
) -> dict[str, Any]:
    """Collect the state to save.  Every rank must call it, since sums that ranks keep separately are gathered.

    lineage: keys of all that determines the result, oldest first; more than one where a run was forced to go on under
    another configuration.  The stage's bare network is saved: names do not depend on the number of ranks.
    """
    return {
        "lineage": lineage,
        "net": stage.net.state_dict(),
        "averages": {name: net.state_dict() for name, net in stage.averages.items()},
        "evaluated": {name: _place(stage, net) for name, net in stage.eval_nets().items()},
        "memory": dict(stage.memory),
        "updater": updater.state_dict(),
        "clock": clock.state_dict(),
        "observer": observer.state_dict(clock),
    }


def restore(
    checkpoints: Checkpoints,
    key: str,
    force: bool,
    stage: Checkpointed,
    updater: Updater,
    clock: Clock,
    observer: MetricLogger,
) -> list[str]:
    """Load the newest valid checkpoint into all four, if there is one; returns the lineage to go on with.

    Raises DataError when it was made under another `key`, unless `force`d: going on mixes two experiments.  Raises it
    in any case when the network is another one.
    """
    state = checkpoints.load_newest()
    if state is None:
        return [key]
    lineage = state["lineage"]
    if lineage[-1] != key:
        if not force:
            raise DataError(
                f"{checkpoints.folder}: made from other images, labels or settings, in another precision, or with "
                "dist.sync_batchnorm=false on another number of ranks: choose another name=, move the folder away, or "
                "go on all the same with --force"
            )
        lineage = [*lineage, key]
        if state["clock"]["epoch"] >= stage.optimization.epochs:
            raise DataError(
                f"{checkpoints.folder}: this stage was finished under other settings, so there is nothing to go on "
                "with: move the folder away to train it again"
            )
    for what, part in (("network", stage.net), ("optimizer or precision", updater)):
        try:
            part.load_state_dict(state["net" if part is stage.net else "updater"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{checkpoints.folder}: made for another {what} ({reason}): choose another name=") from None
    for name, net in stage.averages.items():
        net.load_state_dict(state["averages"][name])
    for name, tensor in stage.memory.items():
        tensor.copy_(state["memory"][name])
    clock.load_state_dict(state["clock"])
    observer.load_state_dict(state["observer"], updater.device)
    return lineage


def evaluated(state: dict[str, Any], name: str = "") -> dict[str, Tensor]:
    """The state_dict of the network `name` of TrainingStage.eval_nets, from a checkpoint's state.

    Raises KeyError when no network of this name was evaluated.
    """
    kind, _, place = state.get("evaluated", {"": "net"})[name].partition(".")  # older ones evaluated `net`
    if kind == "averages":
        return state["averages"][place]
    prefix = f"{place}." if place else ""
    return {key.removeprefix(prefix): value for key, value in state["net"].items() if key.startswith(prefix)}


def _place(stage: Checkpointed, net: nn.Module) -> str:
    """The place of an evaluated network in the state: net, net.student, averages.teacher."""
    places = [(f"net.{name}" if name else "net", module) for name, module in stage.net.named_modules()]
    places += [(f"averages.{name}", module) for name, module in stage.averages.items()]
    return next(place for place, module in places if module is net)
