"""DivideMix (Li et al. 2020, https://arxiv.org/abs/2002.07394): noisy labels as semi-supervised learning."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_rmd.config import Model, Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loader import Loader
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill import mixup
from dist_rmd.distill.division import clean_probability
from dist_rmd.distill.relation import RelationLoss
from dist_rmd.distributed.collectives import mean_rows, rank
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.losses.ce import CE
from dist_rmd.models.average import move_average
from dist_rmd.models.encoder import encoder, frozen_encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.stages._student import score_images
from dist_rmd.stages._task import TaskConfig
from dist_rmd.stages.base import Batches, ClassifierStage, Clock, DataInfo, batch_mean, fitted, one_hot

__all__ = ["DivideMix"]

NETWORKS = ("first", "second")
UNUSED = "task.mixup", "task.init_from", "task.divided", "task.kd", "task.relabel", "task.average"
"""keys of section `task` that change what other stages learn, and that this stage has no use for"""


@dataclass(frozen=True)
class DivideMixConfig:
    """Stage `dividemix` (constants of the paper and of the authors' code); optimizer and schedule are those of section
    `task`, whose batch_size is of images with and without label together."""

    warmup: NonNegativeInt = 10
    """epochs of cross entropy before the first division (CIFAR-100: 30)"""
    threshold: ClosedUnitInterval = 0.5
    """tau: images whose label is right with a greater probability keep their label"""
    temperature: PositiveFloat = 0.5
    """T, by which refined and guessed labels are sharpened"""
    alpha: PositiveFloat = 4.0
    """of the Beta distribution of MixMatch's weights"""
    lambda_u: NonNegativeFloat = 25.0
    """weight of the loss of images without label; the paper chooses 0, 25, 50 or 150 for each noise"""
    rampup: PositiveFloat = 16.0
    """epochs after the warm-up in which lambda_u grows from 0"""
    confidence: NonNegativeFloat = 0.0
    """weight of sum p log p in the warm-up, a penalty of confident predictions; 1 for asymmetric noise"""
    relation: NonNegativeFloat = 0.0
    """K, weight of RMDNet's relation loss to the encoder of stage `teacher` (node 0.8, edge 0.35); 0: none"""
    teacher: LabelFree = leaf("simsiam", Role.RESULT, added=True)
    """the stage whose encoder teaches relations"""


class DivideMix(ClassifierStage):
    """Two networks, each of which learns from the division that the losses of the other suggest.

    After some epochs of cross entropy, every epoch begins with a mixture of two Gaussians over the losses of each
    network: w_i is the probability that the label of image i is right.  A network then learns in one half of the epoch,
    L = L_x + lambda_u L_u + KL(uniform || mean p), from images with w > tau, under labels refined by its predictions,
    and from the others, under labels that both networks guess; all of them are mixed (MixMatch; eq. 3 to 12).

    An epoch is as many steps of each network as batches of task.batch_size are in all images.  In the authors' code it
    is one pass over the images with a label, which is as many when half of the images keep theirs.  Here half a batch
    has labels, and the smaller set repeats itself.  The average of both networks' logits is what is evaluated.

    With dividemix.relation each network also learns the relations between the images that it sees, plain in the warm-up
    and mixed after it, which the frozen encoder of a stage without labels tells (RMDNet eq. 10).
    """

    sections: ClassVar[Mapping[str, type]] = {"task": TaskConfig, "dividemix": DivideMixConfig}
    recipe = "task"
    views = ("weak", "weak")
    net: nn.ModuleDict

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        c = config.section(DivideMixConfig)
        return (c.teacher,) if c.relation else ()

    @classmethod
    def model(cls, config: StageConfig) -> Model:
        """The encoder of the average of both networks."""
        return replace(config.model, name=f"pair/{config.model.name}")

    @classmethod
    def check(cls, config: StageConfig) -> None:
        task = config.section(TaskConfig)
        for key in UNUSED:
            if getattr(task, key.partition(".")[2]):
                raise ConfigError(f"{key} is of no use to dividemix, which mixes and refines by itself: leave it out")
        if task.batch_size < 2:
            raise ConfigError("task.batch_size=1: dividemix takes half of a batch from images with a label; at least 2")

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.optimization = config.section(TaskConfig)
        self.config, self.draws = config.section(DivideMixConfig), config.seed
        model = config.model
        both = ImageClassifier(encoder(model.name, model.width, model.init), data.classes)
        one = model.name.partition("/")[2]
        self.net = nn.ModuleDict(
            {name: ImageClassifier(encoder(one, model.width, model.init), data.classes) for name in NETWORKS}
        )
        self.averages = {"both": both.requires_grad_(False).eval()}
        self.memory = {
            "epochs": torch.zeros(1, dtype=torch.int64),
            "clean": torch.zeros(len(NETWORKS), data.images, dtype=torch.float64),  # w, by the network it comes from
        }
        self.steps = max(1, data.images // self.optimization.batch_size)
        self.ce = CE()
        for name in NETWORKS:
            self._take(name)
        taught_by = self.config.teacher
        self.teacher = frozen_encoder(inputs[taught_by]) if self.config.relation else None
        self.relation = RelationLoss()
        if self.teacher is not None and 2 * self.teacher.out_features != both.encoder.out_features:
            raise ConfigError(
                f"dividemix.relation={self.config.relation:g} compares features one by one, but those of {taught_by} "
                f"are {self.teacher.out_features} and those of a network {both.encoder.out_features // 2}: train "
                f"{taught_by} with the same model, or set dividemix.relation=0",
                agreed=True,
            )

    def frozen(self) -> list[nn.Module]:
        return [] if self.teacher is None else [self.teacher]

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        self.source, self.learned, self.seed_of_batches = source, labels, seed
        size = self.optimization.batch_size
        if size > len(labels):
            raise ConfigError(f"task.batch_size={size}: must be at most the {len(labels)} training images")
        self.steps = len(labels) // size
        return Halves(self)

    def start_epoch(self) -> None:
        if self.memory["epochs"].item() >= self.config.warmup:
            rows = torch.from_numpy(self.learned.rows)
            for number, name in enumerate(NETWORKS):
                w = torch.from_numpy(clean_probability(self._losses_of(self.net[name])))
                self.memory["clean"][number].index_copy_(0, rows.to(self.source.device), w.to(self.source.device))
        self.memory["epochs"] += 1

    def _losses_of(self, net: nn.Module) -> NDArray[np.float64]:
        """Cross entropy of every image under its given label, N, in the plain view; the same on all ranks."""

        def judge(images: Tensor, given: Tensor) -> Tensor:
            return self.ce(net(images)[0], given).double()

        net.eval()
        losses = score_images(self.source, self.learned, judge, lambda share: None)
        net.train()
        return losses.cpu().numpy()

    def turn(self, batch: Batch) -> int:
        """Which of NETWORKS a step updates: the first in the first half of an epoch."""
        return min(batch.number // self.steps, 1)

    def trained(self, batch: Batch) -> nn.Module:
        return self.net[NETWORKS[self.turn(batch)]]

    def divided(self, turn: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the images whose labels the network `turn` learns, and of the others, by the other network."""
        keeps = (self.memory["clean"][1 - turn] > self.config.threshold).cpu().numpy()[self.learned.rows]
        return np.flatnonzero(keeps), np.flatnonzero(~keeps)

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(net, nn.ModuleDict)
        learning = net[NETWORKS[self.turn(batch)]]
        if batch.epoch < self.config.warmup:
            return self._warm(learning, batch)
        c, batches = self.config, (batch,) if batch.extra is None else (batch, batch.extra)
        targets = self._targets(batch)
        sizes = [part.sizes for part in batches for _ in part.views]
        drawn = mixup.draw(self.draws, batch.epoch, batch.number, sum(map(sum, sizes)), c.alpha)
        weight = max(drawn.weight, 1 - drawn.weight)
        images, labels = (
            mixup.mixed(*mixup.partners_across(rows, sizes, drawn, rank()), weight)
            for rows in (
                [view for part in batches for view in part.views],
                [target for part, target in zip(batches, targets, strict=True) for _ in part.views],
            )
        )
        logits, features = learning(images)
        logits, rows_of = _wide(logits), [sum(each) for each in zip(*sizes, strict=True)]
        p, log_p = logits.softmax(dim=1), logits.log_softmax(dim=1)
        labelled = len(batch.rows) * len(batch.views)
        mean = mean_rows(p, rows_of)
        terms = {
            "labelled": batch_mean(-(labels * log_p).sum(dim=1)[:labelled], batch),
            "prior": -(len(mean) * mean).log().mean(),  # KL(uniform || mean p)
        }
        loss = terms["labelled"] + terms["prior"]
        if batch.extra is not None:
            terms["unlabelled"] = batch_mean((p - labels).square().mean(dim=1)[labelled:], batch.extra)
            loss = loss + self._lambda(batch) * terms["unlabelled"]
        related = self._related(images, features, rows_of)
        right = {} if batch.right is None else {"kept_right": _counts(batch.right)}
        parts = {f"loss_{name}": term.detach() for name, term in terms.items()}
        return {"loss": loss + sum(related), **parts, **right}

    def _warm(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, features = net(batch.views[0])
        loss = batch_mean(self.ce(logits, batch.labels), batch)
        loss = loss + sum(self._related(batch.views[0], features, batch.sizes))
        if self.config.confidence:
            log_p = _wide(logits).log_softmax(dim=1)
            loss = loss + self.config.confidence * batch_mean((log_p.exp() * log_p).sum(dim=1), batch)
        return {"loss": loss, **fitted(logits, batch)}

    def _related(self, images: Tensor, features: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """The relation loss, weighted, of the rows of all ranks; empty without a teacher."""
        if self.teacher is None:
            return []
        with torch.no_grad():
            taught = self.teacher(images)
        return [self.config.relation * self.relation(taught, features, sizes).loss]

    def _lambda(self, batch: Batch) -> float:
        """lambda_u, which grows linearly within the first epochs after the warm-up."""
        epoch = batch.epoch + batch.number % self.steps / self.steps
        return self.config.lambda_u * min(1.0, (epoch - self.config.warmup) / self.config.rampup)

    @torch.no_grad()
    def _targets(self, batch: Batch) -> list[Tensor]:
        """Refined labels of the images with a label and guessed ones of the others, b x C each; both of all views.

        As in the authors' code, the learning network predicts in training mode, and these images enter its running
        statistics, the other network in evaluation mode.
        """
        c, turn = self.config, self.turn(batch)
        learning, other = self.net[NETWORKS[turn]], self.net[NETWORKS[1 - turn]].eval()
        guessed = []
        if batch.extra is not None:
            views = batch.extra.views
            guessed = [sharpened(torch.stack([_said(n, v) for n in (learning, other) for v in views]).mean(0), c)]
        other.train()
        said = torch.stack([_said(learning, view) for view in batch.views]).mean(0)
        w = self.memory["clean"][1 - turn][batch.rows][:, None].to(said.dtype)
        return [sharpened(w * one_hot(batch.labels, said) + (1 - w) * said, c), *guessed]

    def after_step(self, clock: Clock) -> None:
        """Copy the network that was updated into the average."""
        self._take(NETWORKS[min((clock.step - 1) % (2 * self.steps) // self.steps, 1)])

    @torch.no_grad()
    def _take(self, name: str) -> None:
        both = self.averages["both"]
        move_average(both.get_submodule(f"encoder.{name}"), self.net[name].get_submodule("encoder"), 0.0)
        heads = [self.net[each].get_submodule("head") for each in NETWORKS]
        head = both.get_submodule("head")
        assert isinstance(head, nn.Linear)
        head.weight.copy_(torch.cat([each.get_parameter("weight") for each in heads], dim=1) / 2)
        head.bias.copy_(torch.stack([each.get_parameter("bias") for each in heads]).mean(0))

    def eval_nets(self) -> dict[str, nn.Module]:
        """The average of both networks."""
        return {"": self.averages["both"]}

    def artefact(self) -> dict[str, Any]:
        """Encoder `pair/...` and head of the average; clean: 2 x N float64, w by either network."""
        return {**super().artefact(), "clean": self.memory["clean"]}


class Halves:
    """The batches of an epoch: `steps` of each network of a stage.

    In the warm-up these are batches of all images.  After it half of each batch are images that keep their label; the
    others come along as `extra`.  A pass over a set that ends before the epoch does is followed by another pass.
    """

    def __init__(self, stage: DivideMix):
        self.stage = stage

    def __len__(self) -> int:
        return len(NETWORKS) * self.stage.steps

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """The batches of epoch `epoch` from global batch `start` on.  Leaving early ends the reading."""
        steps = self.stage.steps
        for turn in range(len(NETWORKS)):
            with closing(self._half(epoch, turn, max(0, start - turn * steps))) as batches:
                for batch in batches:
                    extra = batch.extra and replace(batch.extra, epoch=epoch)
                    yield replace(batch, epoch=epoch, extra=extra)

    def _half(self, epoch: int, turn: int, start: int) -> Generator[Batch]:
        stage, size = self.stage, self.stage.optimization.batch_size
        if epoch < stage.config.warmup:
            yield from self._passes(np.arange(len(stage.learned)), size, ("weak",), epoch, turn, start)
            return
        kept, rest = stage.divided(turn)
        if len(kept) < stage.source.world:
            raise DataError(
                f"dividemix: by the {NETWORKS[1 - turn]} network's losses {len(kept)} of {len(stage.learned)} labels "
                f"are right in epoch {epoch + 1}: a longer dividemix.warmup or a smaller dividemix.threshold may help",
                agreed=True,
            )
        batches = self._passes(kept, size // 2, stage.views, epoch, turn, start)
        if len(rest) < stage.source.world:
            yield from batches
            return
        with closing(batches), closing(self._passes(rest, size - size // 2, stage.views, epoch, turn, start)) as more:
            for batch, other in zip(batches, more, strict=True):
                yield replace(batch, extra=other)

    def _passes(
        self, rows: NDArray[np.int64], size: int, views: tuple[str, ...], epoch: int, turn: int, start: int
    ) -> Generator[Batch]:
        """`steps` batches, but for the first `start`, of the images in `rows`, numbered within the epoch."""
        stage, steps = self.stage, self.stage.steps
        loader: Loader = stage.source.training(
            stage.learned.part(rows), views, min(size, len(rows)), stage.seed_of_batches
        )
        for number in range(start, steps):
            passed, place = divmod(number, len(loader))
            if number == start or place == 0:
                reading = loader.epoch((2 * epoch + turn) * steps + passed, place)
            yield replace(next(reading), number=turn * steps + number)


def sharpened(p: Tensor, config: DivideMixConfig) -> Tensor:
    """p^(1 / T), scaled to sum 1: b x C (eq. 4)."""
    powers = p ** (1 / config.temperature)
    return powers / powers.sum(dim=1, keepdim=True)


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.itemsize < 4 else logits


def _said(net: nn.Module, images: Tensor) -> Tensor:
    return _wide(net(images)[0]).softmax(dim=1)


def _counts(right: Tensor) -> Tensor:
    return torch.stack([right.sum(), torch.ones_like(right).sum()])
