"""Options that make training faster: twenty steps with each of them are twenty steps without."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support import forked, recipe, small
from support.torchrun import ROOT
from torch import nn

from dist_rmd.distributed.processes import World
from dist_rmd.engine.writers import read_metrics
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.session import place
from dist_rmd.registry import available, lookup
from dist_rmd.stages.base import TrainingStage

RECIPE = (
    *small.RECIPE,
    "stages=[simsiam,rgrl]",
    "data.reader=memory",
    "simsiam.epochs=5",  # of 4 steps
    "task.epochs=5",
    "task.lr=0.001",
    "simsiam.eval_every=5",
    "task.eval_every=5",
    "precision=fp64",  # where rounding stays small over so many steps
)
DISTRIBUTED = {
    "dist.static_graph=true": 1e-9,
    "dist.compress=bf16": 2e-2,
    "speed.compile=true": 1e-9,
    "speed.compile=true dist.static_graph=true": 1e-9,
}
"""options -> by how much the curves may differ from those of one process without, relative to 1 + value; norms of
gradients by five times as much"""
SMALL_RATES = ("simsiam.lr=0.001", "task.lr=0.00003")
"""at the published ones, curves of networks this small part after some steps where gradients are rounded to bfloat16"""
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
COMPILED = "speed.compile=true"
GRAPHS = f"{COMPILED} speed.cuda_graphs=true"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def train(data, tmp_path_factory):
    """Train in this process; returns the curves."""

    def run(*overrides):
        out = tmp_path_factory.mktemp("runs")
        assert main([*RECIPE, f"data.path={data}", f"out={out}", *overrides]) == 0
        return curves(out)

    return run


@pytest.fixture(scope="module")
def plain(train):
    return train()


def curves(out):
    """Stage and tag -> the values of all steps, of every loss term and of the norm of the gradient."""
    found = {}
    for record in read_metrics(out / "run" / "metrics.jsonl"):
        for tag in record:
            if tag.startswith("train/") and tag != "train/lr":
                found.setdefault(f"{record['stage']} {tag}", []).append(record[tag])
    assert {len(values) for values in found.values()} == {20}
    assert {"simsiam train/feature_std", "rgrl train/loss_edge", "rgrl train/grad_norm"} <= found.keys()
    return found


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        close = 5 * tolerance if "grad_norm" in name else tolerance
        np.testing.assert_allclose(values, theirs[name], rtol=close, atol=close, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_networks_train_alike(plain, train):
    assert_close(train(COMPILED), plain, 1e-9)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("options", DISTRIBUTED)
def test_two_ranks_train_alike(data, plain, train, tmp_path, options):
    rates = SMALL_RATES if "compress" in options else ()
    arguments = [*RECIPE, f"data.path={data}", f"out={tmp_path}", *options.split(), *rates]
    done = forked.ranks(2, "dist_rmd.train", *arguments, deadline=1200)
    assert done.returncode == 0, done.stdout
    ours, theirs = curves(tmp_path), train(*rates) if rates else plain
    assert_close(ours, theirs, DISTRIBUTED[options])
    if "compress" in options:  # and it does something
        assert max(abs(np.subtract(ours[name], theirs[name])).max() for name in theirs) > 1e-6


def whole(net):
    """`net`, compiled as compilation.compiled does, but by dynamo alone, which raises where a graph would break."""
    if isinstance(net, nn.ModuleDict):
        return nn.ModuleDict({name: whole(part) for name, part in net.items()})
    return torch.compile(net, backend="eager", fullgraph=True, dynamic=False)


QUICK = ("simsiam", "rgrl", "modul")
TRAININGS = [name for name in available("stages") if issubclass(lookup("stages", name), TrainingStage)]
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in TRAININGS if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *OTHERS])
def test_no_graph_breaks(name):
    torch.compiler.reset()  # else every stage counts as recompiling the one before
    stage = recipe.stage(name)
    recipe.fill_memory(stage)
    place(stage, World(0, 1, 0, 1, torch.device("cpu")), torch.float32)
    for frozen in stage.frozen():
        frozen.compile(backend="eager", fullgraph=True, dynamic=False)
    assert "loss" in stage.losses(whole(stage.net), recipe.batch_for(stage))


@pytest.mark.slow
def test_a_compiler_that_fails_is_one_line(data, tmp_path):
    arguments = [*RECIPE, f"data.path={data}", f"out={tmp_path}", "stages=[classifier]", COMPILED]
    done = subprocess.run(
        [sys.executable, "-m", "dist_rmd.train", *arguments],
        cwd=ROOT,
        env=os.environ | {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: speed.compile=true, but torch.compile fails here (")
    assert line.endswith("): set it to false")


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("options", ["", COMPILED, GRAPHS])
def test_a_gpu_trains_as_the_cpu_does(plain, train, options):
    assert_close(train("device=cuda", *options.split()), plain, 1e-6)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("options", [COMPILED, GRAPHS])
def test_half_precision_on_a_gpu(train, options, precision):
    """Compiled kernels round to half precision less often: the first steps show that nothing else differs."""
    common = ("device=cuda", f"precision={precision}", *SMALL_RATES)
    ours, theirs = train(*common, *options.split()), train(*common)
    for name in ("simsiam train/loss", "rgrl train/loss", "rgrl train/loss_edge"):
        np.testing.assert_allclose(ours[name][:5], theirs[name][:5], rtol=2e-2, atol=2e-2, err_msg=name)
