import copy

import pytest
import torch
from support.forked import on_ranks
from support.ranks.batchnorm import network, network_gradient, train
from timm.layers import BatchNormAct2d
from torch import nn

from dist_rmd.distributed import sync_batchnorm
from dist_rmd.distributed.sync_batchnorm import SyncBatchNorm, convert
from dist_rmd.errors import ConfigError

CASES = {  # name -> layer, shape without rows, dtype, mean of the data, tolerance, under autocast
    "1d": (nn.BatchNorm1d(3), (), torch.float64, 0, 1e-10, False),
    "1d, float32": (nn.BatchNorm1d(3), (), torch.float32, 0, 1e-5, False),
    "1d, no affine, cumulative": (nn.BatchNorm1d(3, affine=False, momentum=None), (), torch.float64, 0, 1e-10, False),
    "2d": (nn.BatchNorm2d(3, eps=1e-3), (4, 5), torch.float64, 0, 1e-10, False),
    "2d, channels last": (nn.BatchNorm2d(3, momentum=0.3), (4, 5), torch.float64, 0, 1e-10, False),
    "2d, float32, channels last": (nn.BatchNorm2d(3), (4, 5), torch.float32, 0, 1e-5, False),
    "2d, no running statistics": (nn.BatchNorm2d(3, track_running_stats=False), (4, 5), torch.float64, 0, 1e-10, False),
    "2d, large mean": (nn.BatchNorm2d(3), (4, 5), torch.float32, 1000, 1e-3, False),
    "2d, with timm's activation": (BatchNormAct2d(3), (4, 5), torch.float64, 0, 1e-10, False),
    "3d": (nn.BatchNorm3d(3), (2, 2, 2), torch.float64, 0, 1e-10, False),
    "2d, bfloat16": (nn.BatchNorm2d(3), (4, 5), torch.bfloat16, 0, 2e-2, True),
}
SIZES = {1: [7], 2: [5, 2], 3: [3, 1, 3]}


def problem(name):
    """A layer with random weights and two batches of 7 rows with their factors, in the case's dtype and layout."""
    layer, space, dtype, mean, _, autocast = CASES[name]
    torch.manual_seed(1)
    layer = copy.deepcopy(layer).to(torch.float32 if autocast else dtype)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    rows = torch.arange(7.0).view(7, *[1] * (1 + len(space)))  # ranks differ in mean
    batches, factors = torch.randn(2, 2, 7, 3, *space, dtype=torch.float64)
    layout = torch.channels_last if "channels last" in name else torch.contiguous_format
    batches = [(batch + rows + mean).to(dtype, memory_format=layout) for batch in batches]
    return layer, batches, [*factors.to(dtype)], autocast


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_is_torchs_layer_on_the_whole_batch(ranks, tmp_path):
    check(ranks, tmp_path, CASES)


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("device", "compiled"),
    [("cpu", False), *(pytest.param("cuda", c, marks=[pytest.mark.gpu, NO_GPU]) for c in (False, True))],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_device_normalises_as_torch_does_in_float64(monkeypatch, device, compiled, dtype):
    """By what is written here, which one rank leaves to torch otherwise."""
    monkeypatch.setattr(sync_batchnorm, "world_size", lambda: 2)  # the collectives see one rank, whose sums are its own
    torch.manual_seed(2)
    plain = nn.BatchNorm2d(16).double()
    nn.init.normal_(plain.weight)
    ours = convert(copy.deepcopy(plain)).to(device, dtype)
    if compiled:
        ours.compile(dynamic=False)
    images, factor = torch.randn(2, 64, 16, 8, 8, dtype=torch.float64)
    there = images.to(device, dtype, memory_format=torch.channels_last)
    found = train(ours, [there], [factor.to(device, dtype)], autocast=False)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    for name, expected in train(plain, [images], [factor], autocast=False).items():
        close = {"rtol": tolerance, "atol": tolerance * float(expected.abs().max())}
        torch.testing.assert_close(found[name].cpu().to(expected.dtype), expected, **close)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [2, 3])
def test_compiled_as_one_graph_it_is_torchs_layer_on_the_whole_batch(ranks, tmp_path):
    names = ["1d, no affine, cumulative", "2d, channels last", "2d, large mean", "2d, bfloat16"]
    check(ranks, tmp_path, names, "compiled", deadline=1000)


def check(ranks, folder, names, *arguments, deadline=120):
    """Compare the cases `names` on so many ranks with one process, and a network of many layers."""
    images, factor = torch.randn(7, 3, 4, 4, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    cases = [problem(name) for name in names]
    torch.save({"sizes": SIZES[ranks], "cases": cases, "images": images, "factor": factor}, folder / "cases.pt")
    on_ranks(ranks, "batchnorm", folder, *arguments, deadline=deadline)
    *by_case, networks = zip(*(torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)), strict=True)

    for name, parts in zip(names, by_case, strict=True):
        layer, batches, factors, _ = problem(name)
        # The large mean is compared with float64, which torch's own float32 layer misses as well.
        exact = torch.float64 if name == "2d, large mean" else batches[0].dtype
        batches, factors = ([x.to(exact) for x in xs] for xs in (batches, factors))
        whole = train(layer.double() if exact == torch.float64 else layer, batches, factors, False)
        assert whole.keys() == parts[0].keys()
        for key, expected in whole.items():
            values = [part[key].double() for part in parts]
            if "parameter" in key:
                found = sum(values)
            elif key.startswith(("output", "input")):
                found = torch.cat(values)
            else:
                found = values[0]
                assert all(torch.equal(found, value) for value in values), f"{name}: {key} differs by rank"
            close = {"rtol": CASES[name][4], "atol": CASES[name][4]}
            torch.testing.assert_close(found, expected.double(), **close, msg=f"{name}: {key}")

    expected = network_gradient(network(), images, factor)
    for part in networks:
        torch.testing.assert_close(part["network"], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 2)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_finite_differences(shape, channels_last, affine):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    if channels_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    scale = [torch.randn(3, dtype=torch.float64, requires_grad=True) if affine else None for _ in range(2)]

    def normalise(x, weight, bias):
        statistics = sync_batchnorm._global_statistics([x.detach()], 1)
        return sync_batchnorm._Normalise.apply(*statistics, [1e-5], x, weight, bias)[0]

    assert torch.autograd.gradcheck(normalise, (x, *scale))
    (gradient,) = torch.autograd.grad(normalise(x, *scale).square().sum(), x)
    assert gradient.stride() == x.stride()


def test_evaluation_is_torchs(monkeypatch):
    monkeypatch.setattr(sync_batchnorm, "world_size", lambda: 2)  # any collective would fail: there is no process group
    layer, (batch, _), _, _ = problem("2d")
    layer(batch)
    layer.eval()
    synced = convert(copy.deepcopy(layer))
    assert torch.equal(synced(batch), layer(batch))


def test_convert_replaces_every_layer_and_nothing_else():
    net = nn.ModuleDict({
        "encoder": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3, momentum=0.2)),
        "head": nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False), nn.LayerNorm(2)),
    })  # fmt: skip
    net["encoder"].eval()
    before, parameters = net.state_dict(), list(net.parameters())
    converted = convert(net)
    assert converted is net
    assert [type(m) for m in (*net["encoder"], *net["head"])] == [
        nn.Conv2d, SyncBatchNorm, nn.Linear, SyncBatchNorm, nn.LayerNorm
    ]  # fmt: skip
    assert list(net.state_dict()) == list(before)
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert not net["encoder"][1].training
    assert (net["encoder"][1].eps, net["encoder"][1].momentum) == (1e-3, 0.2)


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match="1 dimension"):
        SyncBatchNorm(3)(torch.randn(3))


def test_normalisation_of_an_unknown_kind_is_refused():
    class Own(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input).relu()

    assert sync_batchnorm.is_plain(nn.Sequential(nn.BatchNorm2d(3)))
    assert not sync_batchnorm.is_plain(nn.Sequential(Own(3)))
    with pytest.raises(ConfigError, match=r"Own of this network .* dist\.sync_batchnorm=false"):
        convert(nn.Sequential(Own(3)))
