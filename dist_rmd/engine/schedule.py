"""The learning rate as a pure function of the optimizer step, so that a resumed run has nothing to restore."""

import math

from dist_rmd.config import Optimization


def initial_lr(config: Optimization) -> float:
    """What the schedule scales: `lr`, times batch_size / 256 with `lr_scaling` (Goyal et al. 2017)."""
    return config.lr * config.batch_size / 256 if config.lr_scaling else config.lr


def factor(config: Optimization, step: int, steps_per_epoch: int) -> float:
    """Factor in [0, 1] on the initial learning rate for optimizer step `step` (the first is 0).

    Linear warm-up from 0; then cosine over the remaining steps (Loshchilov & Hutter 2017, without restarts), or
    `gamma` at each of `milestones`, or constant.
    """
    epoch = step / steps_per_epoch
    if epoch < config.warmup_epochs:
        return (step + 1) / (config.warmup_epochs * steps_per_epoch + 1)
    if config.schedule == "cosine":
        progress = (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        return (1 + math.cos(math.pi * progress)) / 2
    if config.schedule == "step":
        return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    return 1.0
