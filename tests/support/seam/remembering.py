"""A stage with values for every image."""

import torch

from dist_rmd.distributed.collectives import write_rows
from dist_rmd.stages.base import batch_mean
from dist_rmd.stages.classifier import Classifier

__all__ = ["Remembering"]


class Remembering(Classifier):
    """A value for each image: weighs it by what its loss was when it was last seen."""

    def __init__(self, config, data, inputs):
        super().__init__(config, data, inputs)
        self.memory = {"last": torch.ones(data.images), "seen": torch.zeros(data.images, dtype=torch.int64)}

    def losses(self, net, batch):
        logits, _ = net(batch.views[0])
        values, last, seen = self.loss(logits, batch.labels), self.memory["last"], self.memory["seen"]
        weights = last[batch.rows] / (1 + last[batch.rows])
        write_rows(last, batch.rows, values, batch.sizes)
        write_rows(seen, batch.rows, seen[batch.rows] + 1, batch.sizes)
        return {"loss": batch_mean(weights * values, batch)}
