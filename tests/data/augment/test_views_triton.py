"""The views that GPUs get: their kernels interpreted here, on a CPU, are torch's operations to the bit; compiled, they
hold no operation that rounds otherwise."""

import re
import subprocess
import sys

import pytest
import torch
import triton
from support.pictures import pictures
from support.torchrun import child_environment
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dist_rmd.data.augment import draws, keyed_rng, pixels_torch, views_triton
from dist_rmd.data.augment.views import Views

MEAN, STD = (0.49, 0.48, 0.44), (0.25, 0.24, 0.26)
STATISTICS = torch.tensor([MEAN, STD]).view(2, 1, 3, 1, 1)
SEED = 3
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def data(n: int, side: int) -> tuple[Tensor, Tensor]:
    return pictures(n, side), torch.arange(n) * 7919 % 50_021


def strong(side: int, n: int, order: int, crop_min: float, flip_rate: float) -> tuple:
    keys = keyed_rng.keys(SEED, order, 0, draws.STRONG)
    return "strong", (*data(n, side), keys, order, STATISTICS, crop_min, flip_rate)


def weak(side: int, n: int, flip_rate: float) -> tuple:
    return "weak", (*data(n, side), keyed_rng.keys(SEED, 0, 0, draws.WEAK), STATISTICS, flip_rate)


SQUARE = [draws.ORDERS.index(order) for order in ((0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2))]
"""orders that have each operation in each place"""
CASES = {
    **{f"strong, order {order}": strong(8, 6, order, 0.2, 0.5) for order in SQUARE},
    "strong, most of a block of pixels empty": strong(31, 6, 5, 0.2, 0.5),
    "strong, 32 x 32": strong(32, 6, 18, 0.2, 0.5),
    "strong, tiny crops": strong(8, 16, 7, 0.01, 0.5),
    "strong, often no try fits": strong(8, 16, 7, 1.0, 0.5),
    "strong, nothing mirrored": strong(8, 16, 7, 0.2, 0.0),
    **{f"weak, {side}, {rate}": weak(side, 6, rate) for side in (8, 31, 32) for rate in (0.0, 0.5)},
}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Views of all CASES."""
    folder = tmp_path_factory.mktemp("interpreted")
    torch.save([*CASES.values()], folder / "cases.pt")
    subprocess.run(
        [sys.executable, "-m", "support.interpreted_views", folder / "cases.pt", folder / "results.pt"],
        env=child_environment(TRITON_INTERPRET="1"),
        check=True,
    )
    return dict(zip(CASES, torch.load(folder / "results.pt", weights_only=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_are_torchs_operations(interpreted, name):
    kind, (images, indices, keys, *others) = CASES[name]
    side = images.shape[1]
    if kind == "strong":
        order, _, crop_min, flip_rate = others
        parameters = draws.strong(keys, indices, side, crop_min, flip_rate)
        expected = pixels_torch.strong(images, *parameters, draws.ORDERS[order], STATISTICS)
    else:
        expected = pixels_torch.weak(images, *draws.weak(keys, indices, side, flip_rate=others[-1]), STATISTICS)
    assert torch.equal(interpreted[name], expected)
    assert interpreted[name].is_contiguous(memory_format=torch.channels_last)


def compiled(kernel: triton.JITFunction, side: int, capability: int) -> str:
    """The PTX of `kernel` for images of `side`, which ptxas has translated for a GPU that need not be there."""
    block = triton.next_power_of_2(side * side)
    types = dict.fromkeys(("indices", "keys"), "*i64") | dict.fromkeys(("statistics", "result"), "*fp32")
    types |= {"images": "*u8", "order": "i32", "flip_below": "i64"}
    constants = {"SIDE": side, "BLOCK": block} | ({"CROP_MIN": 0.2} if "CROP_MIN" in kernel.arg_names else {})
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    options = {"num_warps": views_triton.warps(block), **views_triton.OPTIONS}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert made.asm["cubin"]
    return made.asm["ptx"]


@pytest.mark.parametrize(("side", "capability"), [(32, 80), (32, 90), (128, 90)])  # A100 is 8.0, H100 9.0
def test_compiled_kernels_round_as_torch_does(side, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel in (views_triton.strong_kernel, views_triton.weak_kernel):
        ptx = compiled(kernel, side, capability)
        operations = re.findall(r"^\s+(?:@!?%p\d+ )?(\w+)\.([\w.]*)f(?:32|64)\s", ptx, re.M)
        arithmetic = {(name, mode) for name, mode in operations if name in ("mul", "add", "sub", "div", "sqrt", "fma")}
        assert ("div", "rn.") in arithmetic
        assert {mode for _, mode in arithmetic} == {"rn."}
        assert {name for name, _ in arithmetic} <= {"mul", "add", "sub", "div", "sqrt"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_where_triton_cannot_run_one_line_says_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from dist_rmd.data.augment import draws, keyed_rng, views_triton\n"
        "from dist_rmd.errors import ConfigError\n"
        "images, statistics = torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.ones(2, 1, 3, 1, 1)\n"
        "try:\n"
        "    keys = keyed_rng.keys(0, 0, 0, draws.WEAK)\n"
        "    views_triton.weak(images, torch.arange(2), keys, statistics, 0.5)\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    environment = {k: v for k, v in child_environment().items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert re.fullmatch(r"data.compile_views=true, but Triton fails here \(.+\): set it to false", line)


def test_larger_images_are_torchs_on_gpus():
    """Tensors without content, as if on a GPU: nothing of numba's or Triton's could take them."""
    with FakeTensorMode():
        images = torch.zeros(2, 160, 160, 3, dtype=torch.uint8, device="cuda")
        made = Views(["strong", "weak"], 160, MEAN, STD, SEED, compiled=True)(
            images, torch.arange(2, device="cuda"), 0, 0
        )
    assert [(view.shape, view.device.type) for view in made] == [((2, 3, 160, 160), "cuda")] * 2


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize(("side", "fused"), [(8, True), (32, True), (64, True), (128, True), (8, False), (28, False)])
def test_a_gpu_makes_the_pixels_of_the_cpu(side, fused):
    for ours, theirs in zip(*by_gpu_and_cpu(side, fused), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.gpu
@NO_GPU
def test_larger_images_differ_by_roundings_alone():
    """Beyond LARGEST the order of summation counts."""
    for ours, theirs in zip(*by_gpu_and_cpu(160, True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def by_gpu_and_cpu(side, fused):
    images, indices = data(64, side)
    return [
        [view.cpu() for view in views(images.to(device), indices.to(device), 1, 2)]
        for device, views in (
            ("cuda", Views(["strong", "weak", "plain"], side, MEAN, STD, SEED, fused)),
            ("cpu", Views(["strong", "weak", "plain"], side, MEAN, STD, SEED, False)),
        )
    ]
