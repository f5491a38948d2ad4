import copy

import pytest
import torch
from support.forked import on_ranks
from support.ranks import views
from timm.layers import BatchNormAct2d
from torch import nn

from dist_rmd.distributed.processes import World
from dist_rmd.models.batchnorm import BatchNorm, for_training, kind

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
LAYERS = {
    "1d": (nn.BatchNorm1d(3), ()),
    "1d, no affine, cumulative": (nn.BatchNorm1d(3, affine=False, momentum=None), ()),
    "1d, no running statistics": (nn.BatchNorm1d(3, track_running_stats=False), ()),
    "2d": (nn.BatchNorm2d(3, momentum=0.3), (4, 5)),
    "2d, with timm's activation": (BatchNormAct2d(3), (4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_views_are_normalised_as_one_after_another_to_the_bit(name, parts):
    """Outputs, gradients, running statistics and the number of batches, over two steps and in evaluation."""
    layer, space = LAYERS[name]
    torch.manual_seed(0)
    ours, theirs = for_training(copy.deepcopy(layer), parts), copy.deepcopy(layer)
    for rows in torch.randn(2, 6, 3, *space):
        views = (rows + torch.arange(6.0).view(-1, *[1] * (rows.dim() - 1))).requires_grad_()
        found, expected = ours(views), torch.cat([theirs(view) for view in views.chunk(parts)])
        assert torch.equal(found, expected)
        factor = torch.randn(expected.shape)
        gradients = [torch.autograd.grad((out * factor).sum(), [views, *net.parameters()])
                     for out, net in ((found, ours), (expected, theirs))]  # fmt: skip
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert_same_state(ours, theirs)
    assert torch.equal(ours.eval()(rows), theirs.eval()(rows))


def assert_same_state(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    for key, value in other.state_dict().items():
        assert torch.equal(one.state_dict()[key], value), key


def test_a_count_that_was_loaded_goes_on():
    layer, rows = for_training(nn.BatchNorm1d(3)), torch.randn(4, 3)
    layer(rows)
    layer(rows)
    again = for_training(nn.BatchNorm1d(3))
    again(rows)
    again.load_state_dict(layer.state_dict())
    assert [int(net.state_dict()["num_batches_tracked"]) for net in (layer, again, copy.deepcopy(layer))] == [2, 2, 2]
    again(rows)
    assert int(again.state_dict()["num_batches_tracked"]) == 3
    assert int(layer.state_dict()["num_batches_tracked"]) == 2


def test_a_layer_keeps_its_kind_and_its_views():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    parameters = list(net.parameters())
    assert for_training(for_training(net, views=2)) is net
    assert isinstance(net[0], BatchNorm)
    assert (kind(net[0]), net[0].views, type(net[1])) == (nn.BatchNorm1d, 2, nn.Linear)
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))


def compare(found):
    for name, (together, by_view) in found.items():
        torch.testing.assert_close(together["losses"], by_view["losses"], rtol=1e-12, atol=1e-12, msg=name)
        for net, state in by_view["states"].items():
            for key, value in state.items():
                same = together["states"][net][key]
                torch.testing.assert_close(same, value, rtol=1e-10, atol=1e-12, msg=f"{name} {net} {key}")


def test_twenty_steps_are_those_of_a_forward_pass_for_each_view():
    compare({name: [views.trace(name, ALONE, by_view) for by_view in (False, True)] for name in views.METHODS})


@pytest.mark.parametrize("ranks", [2, 3])
def test_twenty_steps_are_the_same_on_ranks_with_half_as_many_exchanges(tmp_path, ranks):
    """15 layers, 3 of which are shortcuts' and exchange with another, forward and backward, for both views at once.

    Two more exchanges are those of the projections' spread and of the gradients.
    """
    on_ranks(ranks, "views", tmp_path)
    for rank in range(ranks):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        compare(found)
        assert [trace["collectives"] for trace in found["simsiam"]] == [2 * 12 + 2, 2 * 2 * 12 + 2]
