"""What holds for every stage that is trained: on any number of ranks it is the same training."""

import pytest
import torch
from stages.recipe import batch, fill_memory, stage
from torchrun import on_ranks

from dist_rmd.registry import available, lookup
from dist_rmd.stages.base import Training

TRAININGS = [name for name in available("stages") if issubclass(lookup("stages", name), Training)]

SCRIPT = """
import sys
import torch
from stages.recipe import batch, fill_memory, stage
from dist_rmd.collectives import all_reduce_sum
from dist_rmd.config import Distributed
from dist_rmd.engine import distributed
world = distributed.detect("cpu")
distributed.start(world, timeout=60)
def measure(number, name, *overrides):
    s = stage(name, *overrides)
    fill_memory(s)
    for part in s.frozen():
        part.double()
    s.net = distributed.place(s.net, world, True, torch.float64)
    net = distributed.parallel(s.net, world, Distributed())
    terms = s.losses(net, batch(len(s.views), rank=world.rank, world=world.size, dtype=torch.float64))
    terms["loss"].backward()
    found = {key: p.grad for key, p in s.net.named_parameters()}
    found |= {f"buffer {key}": b for key, b in s.net.named_buffers()}
    found |= {f"term {key}": all_reduce_sum(term) / world.size for key, term in terms.items()}
    torch.save(found, f"{sys.argv[1]}/{number}-{world.rank}.pt")
for number, case in enumerate(sys.argv[2:]):
    measure(number, *case.split())
distributed.stop()
"""


OPTIONS = (
    "rgrl relation.norm=rms relation.node_pairs=other_label relation.teacher_view=other",
    "modul modul.student_negatives=true modul.hint=map modul.batchnorm=all modul.mixup=0",
)


def single(name, *overrides):
    s = stage(name, *overrides)
    fill_memory(s)
    for part in [s.net, *s.frozen()]:
        part.double()
    terms = s.losses(s.net, batch(len(s.views), dtype=torch.float64))
    terms["loss"].backward()
    found = {key: p.grad for key, p in s.net.named_parameters()}
    found |= {f"buffer {key}": b for key, b in s.net.named_buffers()}
    return found | {f"term {key}": term.detach() for key, term in terms.items()}


@pytest.mark.parametrize("ranks", [2, 3])
def test_terms_gradients_and_statistics_are_those_of_one_process(tmp_path, ranks):
    """10 samples on 3 ranks are 4 + 3 + 3: uneven shards are weighted."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    cases = [*TRAININGS, *OPTIONS]
    on_ranks(ranks, script, tmp_path, *cases)
    for number, case in enumerate(cases):
        expected = single(*case.split())
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
    terms = s.losses(s.net, batch(len(s.views)))
    assert terms["loss"].requires_grad
    assert all(term.dim() == 0 for term in terms.values())
