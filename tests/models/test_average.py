import pytest
import torch
from torch import nn

from dist_rmd.models.average import average_of, move_average


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def moved(net):
    """Another set of weights and of running statistics."""
    net(torch.randn(8, 4, dtype=net[0].weight.dtype))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_weights_and_running_statistics_are_averaged_and_counters_copied(momentum):
    torch.manual_seed(0)
    net = network().double()
    moved(net)
    average = average_of(net)
    expected = {key: value.clone() for key, value in net.state_dict().items()}
    for _ in range(3):
        moved(net)
        move_average(average, net, momentum)
        for key, value in net.state_dict().items():
            old = expected[key]
            expected[key] = momentum * old + (1 - momentum) * value if value.is_floating_point() else value.clone()
    for key, value in average.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-12, atol=1e-12)


def test_an_average_neither_learns_nor_shares_memory():
    net = network()
    average = average_of(net)
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    before = average[0].weight.clone()
    moved(net)
    assert torch.equal(average[0].weight, before)
    assert net.training
    assert net[0].weight.requires_grad
