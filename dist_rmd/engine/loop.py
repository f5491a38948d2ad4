"""The training loop of every stage."""

from collections.abc import Callable
from typing import Any

from torch import nn

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.observer import Observer
from dist_rmd.engine.updater import Updater


def fit(
    stage: Any,
    net: nn.Module,
    loader: Any,
    updater: Updater,
    clock: Clock,
    observer: Observer,
    evaluate: Callable[[], dict[str, float]],
    save: Callable[[], None],
    save_every: int,
) -> None:
    """Train `stage` from where `clock` stands to its last epoch.

    net: what DDP wraps, or the bare network on one process.  evaluate: metrics of the network as it stands, called on
    every rank.  save: writes a checkpoint, every `save_every` epochs and at the end.
    """
    config = stage.optimization
    while clock.epoch < config.epochs:
        net.train()
        for batch in observer.waiting(loader.epoch(clock.epoch, start=clock.batch)):
            with updater.autocast():
                terms = stage.losses(net, batch)
            updater(terms["loss"], clock)
            clock.tick()
            observer.step(clock, terms, updater.lr)
        clock.next_epoch()
        is_last = clock.epoch == config.epochs
        evaluates, saves = (is_last or clock.epoch % every == 0 for every in (config.eval_every, save_every))
        if evaluates or saves:
            observer.flush(clock)
        if evaluates:
            net.eval()
            observer.evaluated(clock, evaluate())
        if saves:
            save()
        observer.resume_timer()
