"""A stage of two networks, which take turns, and no images."""

import torch
import torch.nn.functional as F
from torch import nn

from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier as Network
from dist_rmd.stages._task import TaskConfig
from dist_rmd.stages.base import ClassifierStage, batch_mean

__all__ = ["Adversaries"]


class Adversaries(ClassifierStage):
    """No images: five steps of a student to one of a generator, which makes images on which it differs from a teacher.

    Micaelli & Storkey 2019, Fang et al. 2019, in small.  SGD moves the student, Adam the generator.
    """

    recipe, labels, views = "task", "none", ()
    sections = {"task": TaskConfig}  # noqa: RUF012

    def __init__(self, config, data, inputs):
        self.optimization = config.section(TaskConfig)
        body = encoder(config.model.name, config.model.width)
        generator = nn.Sequential(
            nn.Linear(5, 3 * data.side**2), nn.Unflatten(1, (3, data.side, data.side)), nn.BatchNorm2d(3), nn.Tanh()
        )
        self.net = nn.ModuleDict({"student": Network(body, data.classes), "generator": generator})
        self.teacher = (
            Network(encoder(config.model.name, config.model.width), data.classes).requires_grad_(False).eval()
        )

    def frozen(self):
        return [self.teacher]

    def param_groups(self):
        return [
            {"params": list(self.net["student"].parameters())},
            {"params": list(self.net["generator"].parameters()), "optimizer": "adam", "lr": 0.01},
        ]

    def batches(self, source, labels, seed):
        return source.latents(5, self.optimization.batch_size, steps=9, seed=seed)

    def trained(self, batch):
        return self.net["generator" if batch.number % 6 == 5 else "student"]

    def losses(self, net, batch):
        (noise,) = batch.views
        if self.trained(batch) is self.net["student"]:
            with torch.no_grad():
                images = self.net["generator"](noise)
            distance = self._distance(net["student"], images, batch)
            return {"loss": distance, "loss_student": distance.detach()}
        distance = self._distance(self.net["student"], net["generator"](noise), batch)
        return {"loss": -distance, "loss_generator": -distance.detach()}

    def _distance(self, student, images, batch):
        values = F.l1_loss(student(images)[0], self.teacher(images)[0], reduction="none")
        return batch_mean(values.mean(1), batch)

    def eval_nets(self):
        return {"": self.net["student"]}
