import math

import pytest
from support import forked

from tools.scaling_model import H100, Work, all_reduce, count, fastest, possible, step

WORK = Work("simsiam", 512, 6.7e9, 500, 74_000_000, 92, 0)


def test_what_a_step_consists_of_is_counted():
    """ResNet-18 with CIFAR's stem: 1.111 GFLOP forward; 20 batch normalisations, SimSiam's heads have three more.

    Three of a shortcut are exchanged with others, and SimSiam's two views at once.
    """
    rgrl = count("rgrl", 64)
    assert rgrl.flops == pytest.approx(4 * 1.111e9, rel=0.01)  # the teacher's forward, the student's three-fold
    assert rgrl.gradient_bytes == 4 * 11_173_962
    assert (rgrl.statistics, rgrl.features) == (2 * 17, 512)
    simsiam = count("simsiam", 512)
    assert simsiam.flops == pytest.approx(6 * 1.111e9 + 0.09e9, rel=0.01)
    assert simsiam.statistics == 2 * 17 + 2 * 3
    assert 300 < rgrl.kernels < simsiam.kernels < 1000


def test_one_rank_exchanges_nothing():
    assert all_reduce(H100, 1, 1e9) == 0
    terms = step(WORK, H100, 1)
    assert sum(terms.values()) == terms["arithmetic"] + terms["optimizer"]


def test_an_all_reduce_moves_twice_the_bytes_over_the_slowest_link():
    size = 1e12  # latency does not matter
    assert all_reduce(H100, 8, size) == pytest.approx(2 * 7 / 8 * size / 300e9, rel=1e-3)
    assert all_reduce(H100, 16, size) == pytest.approx(2 * 15 / 16 * size / 40e9, rel=1e-3)
    hops = 2 * 3 * 6e-6 + 2 * math.log2(64) * 12e-6
    assert all_reduce(H100, 512, 0) == pytest.approx(hops)


@pytest.mark.parametrize("option", ["captured", "half"])
def test_options_never_cost_anything(option):
    for ranks in possible(WORK):
        assert sum(step(WORK, H100, ranks, **{option: True}).values()) <= sum(step(WORK, H100, ranks).values())


def test_without_shared_statistics_it_scales_further():
    assert possible(WORK)[-1] == 256
    assert fastest(WORK, H100) < fastest(WORK, H100, synchronised=False)


def test_the_command_writes_tables_and_a_picture(tmp_path):
    done = forked.command("tools.scaling_model", "--markdown", tmp_path / "t.md", "--figure", tmp_path / "f.png")
    assert done.returncode == 0, done.stderr
    assert "simsiam, global batch 512: milliseconds of a step" in (tmp_path / "t.md").read_text()
    assert (tmp_path / "f.png").stat().st_size > 10_000
