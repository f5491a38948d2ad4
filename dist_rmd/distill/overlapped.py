"""A frozen teacher's forward pass, on a GPU beside the student's."""

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor, nn


class OverlappedTeacher:
    """What `teacher` says of `view`, without gradient, while the host goes on to launch the student:

        lesson = Lesson(teacher, view)
        logits, features = net(view)
        targets = lesson.result()

    On a GPU the teacher has a stream of its own, so that kernels of the two that leave room run at the same time.
    The teacher returns a tensor or a tuple of them.
    """

    def __init__(self, teacher: nn.Module, view: Tensor):
        self._view = view  # whose memory must stay its own until both streams have met again
        self._stream = _stream(view.device) if view.is_cuda else None
        beside: Any = contextlib.nullcontext()
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())  # on which the view was made
            beside = torch.cuda.stream(self._stream)
        with torch.no_grad(), beside:
            self._said = teacher(view)

    def result(self) -> Any:
        """What the teacher returned, for use on the current stream."""
        if self._stream is not None:
            current = torch.cuda.current_stream()
            current.wait_stream(self._stream)
            for tensor in self._said if isinstance(self._said, tuple) else (self._said,):
                tensor.record_stream(current)  # or its memory would be the next lesson's as soon as Python drops it
        return self._said


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
