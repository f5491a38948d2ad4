"""MLflow.  The library reads MLFLOW_TRACKING_URI, which names the server, and its like itself."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param

from dist_rmd.config import leaves
from dist_rmd.trackers.base import Tracker

__all__ = ["MlflowRun"]

MOST = 100
"""parameters that the server takes at once"""
STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowRun(Tracker):
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, or else `dist_rmd`, with the configuration of its first start."""

    def begin(self, name: str, folder: Path, configuration: Mapping[str, Any], identity: str | None) -> str:
        if not mlflow.is_tracking_uri_set():
            raise ValueError("set MLFLOW_TRACKING_URI to the server, such as http://HOST:5000")
        self.client = mlflow.MlflowClient()
        if identity is not None:
            self.id = identity
            self.client.update_run(self.id, status="RUNNING")
            return self.id
        self.id = self.client.create_run(self._experiment(), run_name=name).info.run_id
        settings = [Param(key, str(leaf.value)) for key, leaf in leaves(configuration)]
        for first in range(0, len(settings), MOST):
            self.client.log_batch(self.id, params=settings[first : first + MOST])
        return self.id

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self.client.log_batch(self.id, [Metric(f"{stage}/{tag}", value, now, step) for tag, value in values.items()])

    def end(self, status: str) -> None:
        self.client.set_terminated(self.id, STATUS[status])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dist_rmd")
        found = self.client.get_experiment_by_name(name)
        return found.experiment_id if found else self.client.create_experiment(name)
