import pytest
import torch

from dist_rmd.engine.finite import not_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_it_is_the_opposite_of_isfinite(dtype):
    x = torch.tensor([0.0, -0.0, 1.5, torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 2], dtype=dtype)
    x = torch.cat([x, -x, torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=dtype)])
    assert torch.equal(not_finite(x), ~x.isfinite())
