"""What every stage is: a training, which the engine carries out, or a computation over images.

Stages meet only through artefacts: plain dictionaries of tensors, strings and numbers, written when a stage ends.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from dist_rmd.config import Config, Model, Optimization, StageConfig
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders


@dataclass(frozen=True)
class DataInfo:
    """What a stage is told of its images before it sees any."""

    classes: int
    """C: labels are 0..C-1"""
    side: int
    """S: images are 3 x S x S"""
    images: int
    """N, how many images the stage works on: `Batch.rows` are 0..N-1"""


class Clock(Protocol):
    """Where the training stands (dist_rmd.engine.clock)."""

    step: int
    """optimizer steps made"""
    epoch: int
    """whole epochs done"""


class Batches(Protocol):
    """What a training goes through: a Loader, or something that puts several together, or makes batches of noise."""

    def __len__(self) -> int:
        """Optimizer steps in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """The batches of epoch `epoch` from global batch `start` on."""
        ...


class Stage:
    """Base of all stages.

    `inputs` are the artefacts of the stages it `needs`, by name.  Initial weights come from torch's global generator,
    which the caller seeds.
    """

    sections: ClassVar[Mapping[str, type]] = {}
    """sections of the configuration that determine the result: name -> frozen dataclass.  It may read no others"""
    recipe: ClassVar[str]
    """the one of them that has the stage's `seed`"""
    labels: ClassVar[Literal["given", "true", "none"]] = "given"
    """which labels the images come with.  given: those of the run, noise and all.  true: the dataset's own, of all its
    images.  none: none that the result would depend on.  One artefact of the latter two serves all noise"""
    evaluation: ClassVar[str | None] = None
    """what is measured on the test images: the public function of dist_rmd/evaluation/<evaluation>.py, if anything"""

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        raise NotImplementedError

    @classmethod
    def scope(cls, config: Config) -> StageConfig:
        """What the stage may read of a whole configuration, with its own seed and model in place of the run's."""
        scope = config.only(cls.sections)
        return replace(scope, seed=cls.seed(scope), model=cls.model(scope))

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        """Stages whose artefacts this one starts from."""
        return ()

    @classmethod
    def model(cls, config: StageConfig) -> Model:
        """Which encoder is trained: that of the run, unless the stage has a choice of its own."""
        return config.model

    @classmethod
    def seed(cls, config: StageConfig) -> int:
        """The seed of its weights, batches and augmentation: its own, or else the run's."""
        own = config.sections[cls.recipe].seed
        return config.seed if own is None else own

    @classmethod
    def per_class(cls, config: StageConfig) -> int | None:
        """labels = "true": how many images of every class, the first ones, it learns (data.per_class when None)."""
        return None

    @classmethod
    def files(cls, config: StageConfig) -> dict[str, str]:
        """Paths of files that it reads, each by the key that names it: their content enters its artefact's key."""
        return {}

    @classmethod
    def check(cls, config: StageConfig) -> None:
        """Raise ConfigError for values that only this stage can judge.  Called before any work."""

    @property
    def name(self) -> str:
        """The name of the stage's file, as in `stages` of a configuration."""
        return type(self).__module__.rpartition(".")[2]

    def frozen(self) -> list[nn.Module]:
        """Networks that never change; they are moved to the device and stay in evaluation mode."""
        return []

    def artefact(self) -> dict[str, Any]:
        """What later stages and users load: {"encoder": state_dict, ...}, plain containers only."""
        raise NotImplementedError


class TrainingStage(Stage):
    """A stage that the engine trains: what is trained, on which batches, with which loss.

    `net`, `optimization`, `losses` and `artefact` are all that a stage must give.  What else there is:

    several networks    `net` is an nn.ModuleDict; `param_groups` gives each its optimizer, `trained` says which of them
                        a step moves
    a moving average    `averages`, moved in `after_step`; `eval_nets` hands it to the evaluation
    a value per image   `memory`, N rows, read at `batch.rows` and written by collectives.write_rows
    a look at images    `prepare`, before the first batch: scores, prototypes, a choice of images
    no images           `views = ()`, and `batches` are source.latents: noise; `pictures` shows what is made of it
    """

    recipe: ClassVar[str]
    """the section that is an Optimization"""
    evaluation = "accuracy"
    views: tuple[str, ...] = ("weak",)
    """the kinds of augmented views in each batch (dist_rmd.data.augment.views); () in a stage that needs no images"""

    net: nn.Module
    """exactly what is trained and wrapped by DDP.  An nn.ModuleDict holds several networks, each wrapped by itself"""
    averages: Mapping[str, nn.Module] = MappingProxyType({})
    """networks without gradient that the stage itself changes (models/average.py), by name: in evaluation mode, saved
    with `net`"""
    memory: Mapping[str, Tensor] = MappingProxyType({})
    """tensors that the stage itself changes in place as it trains (a value for each image, a queue), by name: the same
    on all ranks.  Set once, in __init__: the engine moves them to the device (float32 becomes float64 where the
    networks are), saves them, and writes them back in place when a run goes on"""
    optimization: Optimization

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups, as torch's optimizers take them.

        `optimizer` is "sgd", "adamw" or "adam", that of the section when left out.  `lr` is the initial learning rate,
        that of the section when left out; it follows the section's schedule unless `constant_lr` is True.  SGD also
        takes momentum and weight decay of the section where a group has none of its own, AdamW the weight decay; Adam
        takes torch's defaults.
        """
        return [{"params": list(self.net.parameters())}]

    def prepare(self, source: Loaders, labels: LabelView) -> None:
        """Look at the images of `labels` before training begins: score them, make prototypes, choose among them.

        Called once at every start on all ranks, when networks and memory are on the device, before `batches`.
        """

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        """What it is trained on: by default all images of `labels`."""
        return source.training(labels, self.views, self.optimization.batch_size, seed)

    def start_epoch(self) -> None:
        """Called on all ranks before the first batch of every epoch, and not where a run goes on within one."""

    def trained(self, batch: Batch) -> nn.Module | None:
        """The one of several networks of `net` that this step moves; None: all.  The others get no gradient."""
        return None

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of this rank: "loss" (0-d) is differentiated, every other is logged under its name.

        A network that the step moves is called through `net`, and once, never through `self.net`: DDP synchronises
        gradients of `net`'s forward only.  Any other is called through `self.net`.

        0-d: the mean over ranks is the term's value for the global batch (see Batch.share), and what is logged is the
        mean over steps.  Two numbers (part, whole) of this rank's samples: the sum of all parts over the sum of all
        wholes is logged, and nothing where the latter is 0.
        """
        raise NotImplementedError

    def after_step(self, clock: Clock) -> None:
        """Called on all ranks after every optimizer step, the `clock.step`-th."""

    def eval_nets(self) -> dict[str, nn.Module]:
        """What is evaluated: the network whose accuracy is the stage's under "", others under names of their own.

        Tags of the latter end in _<name>, as in test/top1_student.
        """
        return {"": self.net}

    def pictures(self) -> Tensor | None:
        """Images that the stage has made, to be looked at beside each evaluation: n x 3 x S x S, normalised; or None.

        Called on all ranks, which come to the same ones.
        """
        return None

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """One line for the user when logged means, or what an evaluation has measured, look wrong, else None."""
        return None


class ClassifierStage(TrainingStage):
    """A training of an encoder with a linear head, or of several."""

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        if metrics.get("test/predicted_classes") != 1:
            return None
        return (
            "the network has collapsed: it takes all test images for one class; "
            f"{self.recipe}.grad_clip=5 or a smaller {self.recipe}.lr may cure it"
        )

    def artefact(self) -> dict[str, Any]:
        """Encoder and head of the evaluated network; others: the same of those with names of their own."""
        parts = {
            name: {part: net.get_submodule(part).state_dict() for part in ("encoder", "head")}
            for name, net in self.eval_nets().items()
        }
        main = parts.pop("")
        return {**main, "others": parts} if parts else main


class ComputationStage(Stage):
    """A stage that trains nothing: it works something out from images, once."""

    def compute(self, source: Loaders, labels: LabelView, proceed: Callable[[float], None]) -> dict[str, float]:
        """Do it, on all ranks; returns what is worth a place among the run's metrics, by tag.

        `proceed` is told every few seconds how much is done, from 0 to 1, and raises where the work is to be given up.
        """
        raise NotImplementedError

    def pretend(self, labels: LabelView) -> None:
        """Come to a result of the right form without work, for a dry run."""
        raise NotImplementedError

    @classmethod
    def summary(cls, metrics: Mapping[str, float]) -> str:
        """In one line what `compute` has returned."""
        raise NotImplementedError


def batch_mean(values: Tensor, batch: Batch) -> Tensor:
    """Mean of b per-sample values, weighted so that the mean over ranks is the mean over the global batch."""
    return values.mean() * batch.share


def fitted(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Of the right and of the wrong given labels: (how many the network predicts, how many there are), as terms.

    logits: b x C, those that the network has been trained on in this step.  {} where nobody knows which are right.
    """
    if batch.right is None:
        return {}
    hit, right = logits.argmax(dim=1) == batch.labels, batch.right
    counts = torch.stack([hit & right, right, hit & ~right, ~right]).sum(dim=1)
    return {"fitted_right": counts[:2], "fitted_wrong": counts[2:]}
