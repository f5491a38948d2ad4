"""Weights & Biases.  The library reads WANDB_API_KEY, WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE and its like itself."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from dist_rmd.trackers.base import Tracker

__all__ = ["WandbRun"]

TIMEOUT = 15.0
"""seconds for the service to answer at the beginning, and to take in what is left at the end"""


class WandbRun(Tracker):
    """A run of the project WANDB_PROJECT, or else `dist_rmd`; each stage has an x axis of its own, <stage>/step."""

    def begin(self, name: str, folder: Path, configuration: Mapping[str, Any], identity: str | None) -> str:
        wandb.setup(wandb.Settings(silent=True))  # without it, a missing key is asked for on the terminal
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dist_rmd"),
            name=name,
            dir=folder,
            config=dict(configuration),
            allow_val_change=True,
            id=identity,
            resume="allow",
            settings=wandb.Settings(
                console="off", init_timeout=TIMEOUT, finish_timeout=TIMEOUT, finish_timeout_raises=True
            ),
        )
        return self.run.id

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        # Its own step may only grow, and each stage counts from 1.
        self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self.run.log({f"{stage}/step": step, **{f"{stage}/{tag}": value for tag, value in values.items()}})

    def end(self, status: str) -> None:
        if status == "stopped":
            self.run.mark_preempting()
        self.run.finish(exit_code=0 if status == "done" else 1)
