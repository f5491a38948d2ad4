"""Matrix products in full float32, even if the process allows TF32 or bfloat16 elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Within this context, float32 matrix products use neither TF32 (GPUs) nor bfloat16 (CPUs).

    TF32 keeps 11 bits: it rounds pixels, and E_t - E_s of the relation loss would keep three digits of correlations
    that differ in the third.
    """
    # torch has two interfaces, and raises where a process has set both: this one can be read after either.
    libraries: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
    before = [library.matmul.fp32_precision for library in libraries]
    for library in libraries:
        library.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        for library, precision in zip(libraries, before, strict=True):
            library.matmul.fp32_precision = precision
