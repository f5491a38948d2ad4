"""Makes all loaders of a run on one rank; each beton is opened once."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rmd.config import Augment, Data
from dist_rmd.data.augment.views import Views
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.balanced import Balanced
from dist_rmd.data.loading.latents import Latents
from dist_rmd.data.loading.loader import ImageReader, Loader
from dist_rmd.data.loading.memory_reader import MadeReader, MemoryReader
from dist_rmd.data.prepared.beton import Dataset
from dist_rmd.errors import ConfigError

EVALUATION_BATCH = 512  # images per rank


class Loaders:
    """Makes loaders for `rank` of `world` ranks on `device`; `cores` is the number of CPU cores of this rank.

    dtype: type of the views, the same as that of the networks.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Data,
        augment: Augment,
        rank: int,
        world: int,
        device: torch.device,
        cores: int,
        dtype: torch.dtype = torch.float32,
    ):
        self.dataset, self.config, self.augment = dataset, config, augment
        self.rank, self.world, self.device, self.cores, self.dtype = rank, world, device, cores, dtype
        self._readers: dict[str, ImageReader] = {}

    def training(self, labels: LabelView, kinds: Sequence[str], batch_size: int, seed: int) -> Loader:
        """Augmented views of the training images in keyed order, in whole global batches of `batch_size`."""
        views = self._views(kinds, seed, compiled=self.config.compile_views)
        return Loader(self._reader("train"), labels, views, batch_size, seed, self.rank, self.world)

    def balanced(
        self, labels: LabelView, is_first: NDArray[np.bool_], kinds: Sequence[str], batch_size: int, seed: int
    ) -> Balanced:
        """Like `training`, in batches half of which are of the images where `is_first` holds, an N bool."""
        views = self._views(kinds, seed, compiled=self.config.compile_views)
        return Balanced(self._reader("train"), labels, is_first, views, batch_size, seed, self.rank, self.world)

    def made(self, images: Tensor, labels: LabelView, kinds: Sequence[str], batch_size: int, seed: int) -> Loader:
        """Like `training`, for N images that a stage has made (N x S x S x 3 uint8), and their labels."""
        views = self._views(kinds, seed, compiled=self.config.compile_views)
        return Loader(MadeReader(images, self.device), labels, views, batch_size, seed, self.rank, self.world)

    def evaluation(self, split: str, labels: LabelView, aligned: bool = False) -> Loader:
        """The images of `labels` without augmentation, each once over all ranks.  aligned: see Loader."""
        seed = 0  # nothing is drawn
        return Loader(
            self._reader(split), labels, self._views(("plain",), seed, compiled=False), EVALUATION_BATCH * self.world,
            seed, self.rank, self.world, shuffle=False, drop_last=False, aligned=aligned,
        )  # fmt: skip

    def latents(self, dims: int, batch_size: int, steps: int, seed: int, repeat: int = 1) -> Latents:
        """Noise in place of images: epochs of `steps` global batches of `batch_size` vectors in `dims` dimensions.

        repeat: number of consecutive batches that are the same.
        """
        return Latents(dims, batch_size, steps, seed, self.rank, self.world, self.device, self.dtype, repeat)

    def _views(self, kinds: Sequence[str], seed: int, compiled: bool) -> Views:
        return Views(
            kinds, self.dataset.side, self.dataset.mean, self.dataset.std, seed, compiled,
            self.augment.crop_min, self.augment.flip, self.dtype,
        )  # fmt: skip

    def _reader(self, split: str) -> ImageReader:
        if split not in self._readers:
            path = self.dataset.beton(split)
            if self.config.reader == "memory":
                self._readers[split] = MemoryReader(path, self.device)
            else:
                # Imported only where it is used: importing FFCV takes seconds.
                try:
                    from dist_rmd.data.loading.ffcv_reader import BetonReader, most_workers
                except ImportError as error:
                    raise ConfigError(
                        f"data.reader=ffcv, but FFCV cannot be imported here ({error}): use data.reader=memory"
                    ) from None

                self._readers[split] = BetonReader(
                    path, self.config.workers or min(self.cores, most_workers()), self.device
                )
        return self._readers[split]
