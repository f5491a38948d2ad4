import copy

import numpy as np
import pytest
import torch
from torch import nn

from dist_rmd.distributed.sync_batchnorm import SyncBatchNorm
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.models.statistics import batch_moments, batch_statistics, statistics_kept


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, SyncBatchNorm])
def test_the_batch_normalises_itself_and_leaves_no_trace(layer):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), layer(4))
    rows = 5 + torch.randn(6, 3)
    expected, before = copy.deepcopy(net)(rows), copy.deepcopy(net.state_dict())
    with statistics_kept(net):
        found = net(rows)
    assert torch.equal(found, expected)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    net(rows)
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, SyncBatchNorm])
def test_a_network_in_evaluation_mode_may_normalise_by_the_batch(layer):
    net, rows = nn.Sequential(nn.Linear(3, 4), layer(4)), 5 + torch.randn(6, 3)
    expected, before = copy.deepcopy(net).train()(rows), copy.deepcopy(net.state_dict())
    net.eval()
    with batch_statistics(net):
        assert torch.equal(net(rows), expected)
    assert not any(module.training for module in net.modules())
    assert not torch.equal(net(rows), expected)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_error_within_does_not_switch_them_off_for_good():
    net = nn.BatchNorm1d(2)
    with pytest.raises(ZeroDivisionError), statistics_kept(net):
        raise ZeroDivisionError
    assert net.track_running_stats


def test_evaluation_still_uses_them():
    net = nn.BatchNorm1d(2).eval()
    net.running_mean += 3
    rows = torch.randn(4, 2)
    with statistics_kept(net):
        torch.testing.assert_close(net(rows), (rows - 3) / (1 + net.eps) ** 0.5)


def test_a_layer_without_statistics_stays_so():
    net = nn.BatchNorm1d(2, track_running_stats=False)
    with statistics_kept(net):
        pass
    assert not net.track_running_stats


@pytest.mark.parametrize("training", [False, True])
def test_moments_are_read_without_a_trace(training):
    """Outputs, running statistics and the layers' hooks are as if nobody had looked."""
    torch.manual_seed(0)
    net = ImageClassifier(encoder("resnet10", 8), 3).double()
    net.train(training)
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    alone = copy.deepcopy(net)
    expected = alone(images)
    with batch_moments(net) as layers:
        found = net(images)
    assert all(map(torch.equal, found, expected))
    state, untouched = net.state_dict(), alone.state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in state.items())
    assert not any(module._forward_pre_hooks for module in net.modules())
    normalisations = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {id(layer) for layer, _, _ in layers} == {id(layer) for layer in normalisations}
    assert len(layers) == len(normalisations)


def test_moments_are_those_of_what_enters_with_gradient():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2)).double().eval()
    images = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    with batch_moments(net) as layers:
        net(images)
    entering = [images, net[:2](images)]
    for (layer, mean, var), x, normalisation in zip(layers, entering, (net[0], net[2]), strict=True):
        values = x.detach().numpy()
        assert layer is normalisation
        np.testing.assert_allclose(mean.detach().numpy(), values.mean((0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(var.detach().numpy(), values.var((0, 2, 3)), rtol=1e-12)
    layers[-1][1].sum().backward()
    assert images.grad.any()


def test_an_error_within_removes_the_hooks():
    net = nn.BatchNorm1d(2)
    with pytest.raises(ZeroDivisionError), batch_moments(net):
        raise ZeroDivisionError
    assert not net._forward_pre_hooks
