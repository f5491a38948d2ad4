"""The pixels that GPUs get, here on a CPU: compiled as eager, one graph an operation, one line without a compiler."""

import pytest
import torch
from torch import Tensor

from dist_rmd.data.batched import Batched
from dist_rmd.errors import ConfigError

STATISTICS = torch.tensor([[0.49, 0.48, 0.44], [0.25, 0.24, 0.26]]).view(2, 1, 3, 1, 1)


def arguments(n: int, side: int) -> tuple[Tensor, ...]:
    """Noise; any box that fits, mirrored or not; factors of the four operations; which ones become grey."""
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator)
    size = 1 + (torch.rand(2, n, generator=generator) * side).long()
    start = (torch.rand(2, n, generator=generator) * (side + 1 - size)).long()
    flip, gray = torch.rand(2, n, generator=generator) < 0.5
    factors = 0.6 + 0.8 * torch.rand(4, n, generator=generator)
    factors[3] = factors[3] / 4 - 0.25
    # Tensors of their own, as drawn parameters are: a graph is made for a place in a storage, too.
    return images, *(x.clone() for x in (*start, *size, flip)), factors, gray.clone()


def strong(pixels: Batched, n: int, side: int, order: tuple[int, ...]) -> Tensor:
    images, *box, flip, factors, gray = arguments(n, side)
    return pixels.strong(images, tuple(box), flip, order, [x.clone() for x in factors], gray, STATISTICS)


@pytest.mark.slow
@pytest.mark.parametrize("side", [8, 30])  # 30 leaves ragged ends of vectors
def test_compiled_is_eager(side):
    eager, compiled = Batched(compiled=False), Batched(compiled=True)
    strong(compiled, 64, side, (3, 1, 0, 2))
    images, down, right, *_, flip, _, _ = arguments(64, side)
    for batch in (64, 50, 1):
        parts = [x[:batch] for x in (images, down - 3, right - 3, flip)]
        shifted = [pixels.weak(*parts, STATISTICS) for pixels in (eager, compiled)]
        torch.testing.assert_close(*shifted, rtol=0, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for batch, order in ((64, (3, 1, 0, 2)), (50, (0, 1, 2, 3)), (1, (2, 3, 1, 0))):
        both = [strong(pixels, batch, side, order) for pixels in (eager, compiled)]
        torch.testing.assert_close(*both, rtol=0, atol=1e-5)
        assert both[1].is_contiguous(memory_format=torch.channels_last)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "recompiled for a size or an order"


def test_without_a_compiler_one_line_says_what_to_do(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    images, down, right, *_, flip, _, _ = arguments(4, 12)
    with pytest.raises(
        ConfigError, match=r"data.compile_views=true, but torch.compile fails here .*: set it to false"
    ) as caught:
        Batched(compiled=True).weak(images, down, right, flip, STATISTICS)
    assert "\n" not in str(caught.value)
    torch._dynamo.reset()
