"""Runs a frozen teacher's forward pass on a GPU at the same time as the student's."""

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor, nn


class OverlappedTeacher:
    """The teacher's outputs for `view`, without gradient, computed while the student's forward pass is launched:

        teaching = OverlappedTeacher(teacher, view)
        logits, features = net(view)
        targets = teaching.result()

    On a GPU the teacher has a stream of its own, so that small kernels of teacher and student run at the same time.
    The teacher returns a tensor or a tuple of tensors.
    """

    def __init__(self, teacher: nn.Module, view: Tensor):
        self._view = view  # or the allocator could reuse the view's memory before the streams join
        self._stream = _stream(view.device) if view.is_cuda else None
        beside: Any = contextlib.nullcontext()
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())  # the view was made on this stream
            beside = torch.cuda.stream(self._stream)
        with torch.no_grad(), beside:
            self._said = teacher(view)

    def result(self) -> Any:
        """The teacher's outputs, ready for use on the current stream."""
        if self._stream is not None:
            current = torch.cuda.current_stream()
            current.wait_stream(self._stream)
            for tensor in self._said if isinstance(self._said, tuple) else (self._said,):
                tensor.record_stream(current)  # or the teacher's stream could reuse the memory too early
        return self._said


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
