"""What holds for every stage that is trained: on any number of ranks it is the same training."""

from dataclasses import replace

import pytest
import torch
from support.forked import on_ranks
from support.ranks.stages import measure
from support.recipe import batch, batch_for, fill_memory, stage
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rmd.distributed.processes import World
from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.meters import Meters
from dist_rmd.engine.signals import StopRequest
from dist_rmd.engine.step_check import StepCheck
from dist_rmd.engine.updater import Updater
from dist_rmd.pipeline.session import place
from dist_rmd.registry import available, lookup
from dist_rmd.stages.base import TrainingStage, fitted
from tools.bench_parts.launches import Calls

TRAININGS = [name for name in available("stages") if issubclass(lookup("stages", name), TrainingStage)]

OPTIONS = (
    "rgrl relation.norm=rms relation.node_pairs=other_label relation.teacher_view=other",
    "rgrl relation.form=dist relation.inter=0.5",
    "rgrl relation.form=ega task.mixup=1 task.kd=0.5",
    "rgrl_elr relation.form=ega",
    "dfad dfad.student_steps=9",
    "zskt zskt.generator_steps=9",
    "inversion inversion.iterations=5",
    "modul modul.student_negatives=true modul.hint=map modul.batchnorm=all modul.mixup=0",
    "modul loss.name=gce",
    "modul modul.mix_ce=true modul.labels=online modul.augmix=whole",
    "classifier task.mixup=1 task.divided=true task.kd=0.9",
    "elr task.mixup=1",
    "rgrl task.relabel=true task.mixup=8",
    "modul modul.soft=0.5 modul.soft_mixed=0.4 modul.soft_open=0.2",
    "vkd vkd.transfer=features",
    "rgrl task.mixup=8 relation.teacher_view=other",
    "teacher teacher.mixup=1 teacher.loss=edl",
    "vkd vkd.mixup=1",
    "reweight reweight.warmup=1 task.mixup=1",
    "d2l task.mixup=1",
    "war war.warmup=1 task.mixup=1 task.kd=0.5",
    "cleot cleot.warmup=1 task.mixup=1 cleot.alpha=0.5",
    "dfnd dfnd.mixup=1",
    "sop sop.consistency=0.9 sop.balance=0.1",
    "dividemix dividemix.warmup=1 task.batch_size=10",
    "dividemix dividemix.warmup=1 task.batch_size=10 dividemix.relation=0.5",
    "dividemix dividemix.confidence=1",
)


@pytest.mark.parametrize("ranks", [2, 3])
def test_terms_gradients_and_statistics_are_those_of_one_process(tmp_path, ranks):
    """10 samples on 3 ranks are 4 + 3 + 3: uneven shards are weighted."""
    cases = [*TRAININGS, *OPTIONS]
    on_ranks(ranks, "stages", tmp_path, *cases)
    for number, case in enumerate(cases):
        expected = measure(case)
        for rank in range(ranks):
            found = torch.load(tmp_path / f"{number}-{rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", TRAININGS)
def test_contract(name):
    s = stage(name)
    assert s.name == name
    assert lookup("evaluation", s.evaluation)
    assert all(section.__dataclass_params__.frozen for section in s.sections.values())
    in_groups = [id(p) for group in s.param_groups() for p in group["params"]]
    assert sorted(in_groups) == sorted(id(p) for p in s.net.parameters())
    terms = s.losses(s.net, batch_for(s))
    assert terms["loss"].requires_grad
    assert all(term.dim() == 0 or (name != "loss" and term.shape == (2,)) for name, term in terms.items())
    assert s.eval_nets()[""] in [*s.net.modules(), *s.averages.values()]


def test_fitted_labels_are_counted_apart():
    b = replace(batch(size=4), labels=torch.tensor([0, 1, 2, 0]), right=torch.tensor([True, False, False, True]))
    logits = torch.eye(3)[torch.tensor([0, 1, 0, 2])]
    counts = {name: pair.tolist() for name, pair in fitted(logits, b).items()}
    assert counts == {"fitted_right": [1, 2], "fitted_wrong": [1, 2]}
    assert fitted(logits, replace(b, right=torch.tensor([True] * 4)))["fitted_wrong"].tolist() == [0, 0]
    assert fitted(logits, replace(b, right=None)) == {}


MOST_LAUNCHES = {
    "byol": 320, "classifier": 120, "cleot": 120, "d2l": 135, "dafl": 335, "deepinversion": 155,
    "dfad": 280, "dfnd": 205, "dino": 355, "dividemix": 125, "elr": 155, "inversion": 890, "moco": 200,
    "modul": 660, "probe": 75, "reweight": 120, "rgrl": 240, "rgrl_elr": 275, "simclr": 180,
    "simsiam": 255, "sop": 270, "teacher": 115, "vkd": 180, "war": 120, "zskt": 440,
}  # fmt: skip
"""stage -> operations of a step that start work on the device: a little more than there are, with what checks a step"""


class Waits(TorchDispatchMode):
    """Notes what makes the host wait where the tensors are a GPU's: results whose value or size it must know."""

    NEED = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "bincount")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in self.NEED or masks:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def sent(batch, device):
    return replace(
        batch,
        views=tuple(view.to(device) for view in batch.views),
        labels=batch.labels.to(device),
        indices=batch.indices.to(device),
        rows=batch.rows.to(device),
        right=batch.right.to(device),
        extra=batch.extra and sent(batch.extra, device),
    )


def one_step(name, device):
    """What a training step of the stage computes, as a function; the networks are on `device`."""
    s = stage(name)
    fill_memory(s)
    place(s, World(0, 1, 0, 1, torch.device(device)), torch.float32)
    updater = Updater(s.param_groups(), s.optimization, 10, torch.device(device), "fp32")
    meters, check = Meters(), StepCheck(name, RankGroup(0, 1, 30), StopRequest(), 60)
    here = sent(batch_for(s), device)

    def step():
        with updater.autocast():
            terms = s.losses(s.net, here)
        check.note(terms, here.indices)
        updater.backward(terms["loss"], Clock(), s.trained(here))
        meters.add({**terms, **updater.step()}, 10)
        s.after_step(Clock(step=1))

    return step


@pytest.mark.parametrize("name", TRAININGS)
def test_a_step_never_asks_for_a_result_and_launches_no_more_than_it_did(name):
    with Waits() as waits:
        torch.arange(3)[torch.tensor([True, False, True])].max().item()
    assert waits.found == ["index", "_local_scalar_dense"]
    step = one_step(name, "cpu")
    with Waits() as waits, Calls() as calls:
        step()
    assert waits.found == []
    assert calls.launches <= MOST_LAUNCHES[name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", TRAININGS)
def test_a_step_never_waits_for_the_gpu(name):
    step = one_step(name, "cuda")
    step()  # kernels are loaded and memory is pinned in the first
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
