import copy

import pytest
import torch
from torch import nn

from dist_rmd.distributed.sync_batchnorm import SyncBatchNorm
from dist_rmd.models.statistics import statistics_kept


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
