"""What a checkpoint of a stage holds.  Order and augmentation are functions of the clock, so neither is in it."""

from typing import Any

from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.observer import Observer
from dist_rmd.engine.updater import Updater
from dist_rmd.errors import DataError


def capture(lineage: list[str], stage: Any, updater: Updater, clock: Clock, observer: Observer) -> dict[str, Any]:
    """The state to save.  Every rank must call it: what the ranks have apart is brought together.

    lineage: keys of all that determines the result, oldest first; more than one where a run was forced to go on under
    another configuration.  The stage's bare network is saved: names do not depend on the number of ranks.
    """
    return {
        "lineage": lineage,
        "net": stage.net.state_dict(),
        "memory": stage.memory(),
        "updater": updater.state_dict(),
        "clock": clock.state_dict(),
        "observer": observer.state_dict(clock),
    }


def restore(
    checkpoints: Checkpoints,
    key: str,
    force: bool,
    stage: Any,
    updater: Updater,
    clock: Clock,
    observer: Observer,
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
    for name, tensor in stage.memory().items():
        tensor.copy_(state["memory"][name])
    clock.load_state_dict(state["clock"])
    observer.load_state_dict(state["observer"], updater.device)
    return lineage
