import pytest
import torch
from support.recipe import batch, stage


def doubled(name, *overrides):
    s = stage(name, *overrides)
    for net in (s.net, *s.frozen()):
        net.double()
    s.memory = {name: tensor.double() for name, tensor in s.memory.items()}
    return s


@pytest.mark.parametrize("mixup", ["task.mixup=0", "task.mixup=1"])
def test_it_is_elr_with_the_relation_loss_of_rgrl(mixup):
    """Two steps, in the second of which the memory has an effect; both alone have tests of their own."""
    both, elr, rgrl = (doubled(name, mixup) for name in ("rgrl_elr", "elr", "rgrl"))
    for name, value in both.net.state_dict().items():
        assert torch.equal(value, elr.net.state_dict()[name]), name
    for seed in range(2):
        b = batch(dtype=torch.float64, seed=seed)
        found, alone, related = (s.losses(s.net, b) for s in (both, elr, rgrl))
        relations = related["loss"] - related["loss_task"]
        assert relations > 1
        torch.testing.assert_close(found["loss"], alone["loss"] + relations, rtol=1e-10, atol=0)
        torch.testing.assert_close(both.memory["targets"], elr.memory["targets"], rtol=1e-12, atol=0)
        assert both.memory["targets"].any()
