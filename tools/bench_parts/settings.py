"""What all sections are told."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dist_rmd.data.prepared.beton import open_dataset


@dataclass(frozen=True)
class Settings:
    """How and on what to measure."""

    device: str
    """cpu or cuda"""
    cores: int
    """CPU cores that this process may use"""
    quick: bool
    """sizes at which the figures mean nothing, to see that all of it works"""
    rounds: int
    """counted rounds, in each of which all ways take turns"""
    data: Path
    """a prepared dataset of 32 x 32 images"""
    scratch: Path
    """an empty folder for what is written while measuring, on the disk that checkpoints would go to"""
    sizes: tuple[int, ...]
    """global batches of the section `relation`, numbers of images of `growth`; its own choice when empty"""
    options: tuple[str, ...]
    """settings (key=value) of further rows of the product's"""
    runs: tuple[Path, ...] = ()
    """runs of SimSiam for the section `suspects`; its own when empty"""
    folds: int = 0
    """classifiers that have not seen the images they judge, for the section `suspects`; 0: features alone judge"""
    chosen: tuple[int, ...] = ()
    """global batches of whole training steps; the device's own choice when empty"""
    alone: bool = False
    """measure the product's rows of `step` and `input` alone, not what others would write"""
    classes: tuple[int, ...] = ()
    """numbers of classes of the section `growth`; its own choice when empty"""
    operations: tuple[str, ...] = ()
    """names of the operations of `growth` to be measured; all when empty"""
    beside: int = 0
    """other processes that keep cores busy while `input` is measured once more; 0: it is measured once"""

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def network(self) -> tuple[str, int]:
        """Name and width of the encoder that is trained: the paper's on a GPU, a small one on CPUs."""
        return ("resnet18", 64) if self.gpu else ("resnet10", 8 if self.quick else 16)

    @property
    def batch(self) -> int:
        """Images of a training step, where only one size is measured."""
        return self.chosen[0] if self.chosen else 512 if self.gpu and not self.quick else 64

    @property
    def batches(self) -> tuple[int, ...]:
        """Global batches of whole training steps: on a GPU the paper's, too, which is bound by launches."""
        return self.chosen or ((512, 64) if self.gpu and not self.quick else (64,))

    @property
    def precision(self) -> str:
        return "bf16" if self.gpu else "fp32"

    @property
    def autocast(self) -> torch.dtype | None:
        """What peers compute in, where the product computes in `precision`."""
        return torch.bfloat16 if self.gpu else None

    def sized(self, cpu: int, gpu: int, quick: int) -> int:
        """The one of three sizes that fits."""
        return quick if self.quick else gpu if self.gpu else cpu

    def steps(self, batch: int, cpu: int, gpu: int, quick: int) -> int:
        """Steps of an epoch: the one of three numbers that fits, but no more than the images last for."""
        return max(1, min(self.sized(cpu, gpu, quick), open_dataset(self.data).sizes["train"] // batch))
