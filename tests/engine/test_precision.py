import pytest
import torch

from dist_rmd.engine.precision import full_float32

MATMULS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


@pytest.fixture
def restored():
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_are_full_float32_and_torchs_older_setting_is_restored(restored, precision):
    torch.set_float32_matmul_precision(precision)
    outside = [matmul.fp32_precision for matmul in MATMULS]
    with full_float32():
        assert [matmul.fp32_precision for matmul in MATMULS] == ["ieee", "ieee"]
    assert [matmul.fp32_precision for matmul in MATMULS] == outside
    assert torch.get_float32_matmul_precision() == precision


def test_torchs_newer_setting_is_restored_even_after_an_error(restored):
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(RuntimeError, match="cannot be multiplied"), full_float32():
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
