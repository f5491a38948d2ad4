"""The baseline: an encoder and a linear head trained on the given labels with one robust loss."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from dist_rmd.config import StageConfig
from dist_rmd.data.loading.batch import Batch
from dist_rmd.losses._build import LossConfig, configured
from dist_rmd.stages._task import Seen, TaskStage
from dist_rmd.stages.base import DataInfo

__all__ = ["Classifier"]


class Classifier(TaskStage):
    """Mean robust loss between the logits and the given labels."""

    sections: ClassVar[Mapping[str, type]] = {**TaskStage.sections, "loss": LossConfig}

    @classmethod
    def check(cls, config: StageConfig) -> None:
        configured(config.section(LossConfig))

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        super().__init__(config, data, inputs)
        self.loss = configured(config.section(LossConfig))

    def terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        return {"task": self.loss(seen.logits, batch.labels)}
