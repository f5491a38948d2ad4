"""A stage with a mean teacher."""

import torch

from dist_rmd.models.average import average_of, move_average
from dist_rmd.stages.base import batch_mean
from dist_rmd.stages.classifier import Classifier

__all__ = ["Averaging"]


class Averaging(Classifier):
    """A mean teacher, which is what is evaluated; the student is evaluated beside it."""

    def __init__(self, config, data, inputs):
        super().__init__(config, data, inputs)
        self.averages = {"teacher": average_of(self.net)}

    def losses(self, net, batch):
        (view,) = batch.views
        with torch.no_grad():
            target, _ = self.averages["teacher"](view)
        logits, _ = net(view)
        distance = (logits.softmax(1) - target.softmax(1)).square().mean(1)
        return {"loss": batch_mean(self.loss(logits, batch.labels) + distance, batch)}

    def after_step(self, clock):
        move_average(self.averages["teacher"], self.net, min(0.9, 1 - 1 / clock.step))

    def eval_nets(self):
        return {"": self.averages["teacher"], "student": self.net}
