"""Reads images of a .beton file through FFCV, in a given order: FFCV itself draws nothing at random."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from queue import Empty

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rmd.data.augment.kernels import in_threads, kept, uncompiled
from dist_rmd.data.loading.memory_reader import send
from dist_rmd.data.prepared.beton_file import check_positions, read_table
from dist_rmd.errors import ConfigError, DataError


@contextlib.contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Within this context, torch keeps its number of threads, which FFCV otherwise overwrites, even when imported."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


with _torch_threads_kept(), uncompiled():
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.pipeline.compiler import Compiler
    from ffcv.transforms import ToTensor

# FFCV would compile for seconds in every process; the decoders below use code that numba has cached on disk.
Compiler.set_enabled(False)


def most_workers() -> int:
    """The largest number of reading threads, which are numba's: the machine's cores, or NUMBA_NUM_THREADS."""
    return numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


class BetonReader:
    """Serves batches of the beton at `path` through FFCV, decoded ahead of use by `workers` threads.

    Raises DataError where the file is missing, truncated or not of raw images of one size, ConfigError for more workers
    than this machine has threads.
    """

    def __init__(self, path: Path, workers: int, device: torch.device):
        if not 1 <= workers <= most_workers():
            raise ConfigError(f"data.workers={workers}: numba allows 1 to {most_workers()} threads here")
        self.path, self.device = path, device
        samples, _ = read_table(path)
        self._count, self._bytes = len(samples), path.stat().st_size
        pipelines = {"image": [_Images(workers), ToTensor()], "index": [_Indices(), ToTensor()]}
        with _torch_threads_kept():
            self._loader = Loader(str(path), 1, num_workers=workers, os_cache=True, seed=0, pipelines=pipelines)

    def read(self, batches: Sequence[NDArray[np.int64]]) -> Generator[tuple[Tensor, Tensor]]:
        """Yield for each batch of b positions in the beton: images b x S x S x 3 uint8 and positions b int64.

        Both are on the device.  Close the iterator (or exhaust it) to end the reading thread.  Raises DataError for a
        position that the beton does not have, and where reading fails.
        """
        check_positions(self.path, self._count, batches)
        if self.path.stat().st_size != self._bytes:
            raise DataError(
                f"{self.path}: its size has changed since it was opened; leave data alone while it is in use"
            )
        if not batches:
            return
        with _torch_threads_kept():
            epoch = _Epoch(self._loader, batches)
        try:
            for images, indices in epoch:
                # Copy, since FFCV writes a later batch into the same memory.
                yield send(images, self.device), send(indices[:, 0], self.device)
            if epoch.failure:
                reason = f"{type(epoch.failure).__name__}: {epoch.failure}".partition("\n")[0]
                raise DataError(f"{self.path}: FFCV cannot read it ({reason})") from epoch.failure
        finally:
            epoch.close()


class _Images(SimpleRGBImageDecoder):
    """FFCV's decoder of images of one size, for raw images."""

    def __init__(self, workers: int):
        super().__init__()
        self._workers = workers

    def generate_code(self) -> Callable:
        def decode(positions: NDArray, images: NDArray, rows: NDArray, storage: Sequence[NDArray]) -> NDArray:
            starts = rows["data_ptr"][positions].astype(np.int64)
            in_threads(_copy, self._workers, (starts, images.reshape(len(images), -1)), storage[0])
            return images

        return decode


@kept
def _copy(starts, images, content):
    for i in range(len(starts)):
        image = content[starts[i] :]
        for k in range(np.uint64(images.shape[1])):  # unsigned, so that numba checks for no negative indices
            images[i, k] = image[k]


class _Indices(IntDecoder):
    def generate_code(self) -> Callable:
        def decode(positions: NDArray, indices: NDArray, rows: NDArray, storage: Sequence[NDArray]) -> NDArray:
            indices[:, 0] = rows[positions]
            return indices

        return decode


class _Epoch(EpochIterator):
    """FFCV's reading thread for given batches of any sizes; the thread ends when done, failed or closed early."""

    def __init__(self, loader: Loader, batches: Sequence[NDArray[np.int64]]):
        self.failure: BaseException | None = None
        self._batches, self._torch_threads = batches, torch.get_num_threads()
        loader.batch_size = max(map(len, batches))  # the size of FFCV's buffers
        super().__init__(loader, np.concatenate(batches))

    def start(self) -> None:
        self.iter_ixes = self._until_closed()  # in place of FFCV's batches of equal size
        super().start()

    def _until_closed(self) -> Iterator[NDArray[np.int64]]:
        torch.set_num_threads(self._torch_threads)  # in the reading thread, where FFCV has just changed it
        for batch in self._batches:
            if self.terminate_event.is_set():
                return
            yield np.ascontiguousarray(batch)

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:  # FFCV would leave the consumer waiting for ever
            self.failure = error
            self.output_queue.put(None)

    def close(self) -> None:
        super().close()
        while self.is_alive():  # the thread may be waiting for room in the queue
            with contextlib.suppress(Empty):
                self.output_queue.get(timeout=0.01)
