"""The learning rate as a pure function of the optimizer step, so that a resumed run has nothing to restore."""

import math

from dist_rmd.config import Optimization


def initial_lr(config: Optimization) -> float:
    """What the schedule scales: `lr`, times batch_size / 256 with `lr_scaling` (Goyal et al. 2017)."""
    return config.lr * config.batch_size / 256 if config.lr_scaling else config.lr


def factor(config: Optimization, step: int, steps_per_epoch: int) -> float:
    """Factor in [0, 1] on the initial learning rate for optimizer step `step` (the first is 0).

    Linear warm-up from 0; then a cosine to 0 over the remaining steps, or cosines to `gamma` from each of `milestones`
    to the next (Loshchilov & Hutter 2017, eq. 5, without and with restarts), or a step of `gamma` at each of
    `milestones`, or constant.
    """
    epoch = step / steps_per_epoch
    if epoch < config.warmup_epochs:
        return (step + 1) / (config.warmup_epochs * steps_per_epoch + 1)
    if config.schedule == "cosine":
        progress = (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        return (1 + math.cos(math.pi * progress)) / 2
    if config.schedule == "restarts":
        ends = [m for m in config.milestones if config.warmup_epochs < m < config.epochs] + [config.epochs]
        end = next((end for end in ends if epoch < end), config.epochs)
        begin = max((begin for begin in ends if begin < end), default=config.warmup_epochs)
        progress = (epoch - begin) / (end - begin)
        return config.gamma + (1 - config.gamma) * (1 + math.cos(math.pi * progress)) / 2
    if config.schedule == "step":
        return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    return 1.0
