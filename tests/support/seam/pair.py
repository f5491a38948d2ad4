"""A stage of two networks that move together, and are both evaluated."""

from torch import nn

from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier as Network
from dist_rmd.stages._student import score_images
from dist_rmd.stages.base import batch_mean
from dist_rmd.stages.classifier import Classifier

__all__ = ["Pair"]


class Pair(Classifier):
    """Two networks that every step moves, each told by the other what to learn from; both are evaluated.

    The images were scored before training began: the brighter one is, the more it counts.
    """

    def __init__(self, config, data, inputs):
        super().__init__(config, data, inputs)
        body = encoder(config.model.name, config.model.width)
        self.net = nn.ModuleDict({"first": self.net, "second": Network(body, data.classes)})

    def prepare(self, source, labels):
        super().prepare(source, labels)

        def mean(images, given):
            return images.mean((1, 2, 3)).double()

        brightness = score_images(source, labels, mean, lambda share: None)
        self.weights = brightness.argsort().argsort() / len(labels)

    def losses(self, net, batch):
        losses = [self.loss(net[name](batch.views[0])[0], batch.labels) for name in ("first", "second")]
        told = [other.detach().neg().exp() * self.weights[batch.rows] for other in reversed(losses)]
        first, second = (batch_mean(loss * weight, batch) for loss, weight in zip(losses, told, strict=True))
        return {"loss": first + second}

    def eval_nets(self):
        return {"": self.net["first"], "second": self.net["second"]}
