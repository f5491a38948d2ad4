import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.recipe import batch, fill_memory, stage

from dist_rmd.stages.dino import Prototypes


def dino(*overrides):
    s = stage("dino", *overrides)
    s.net.double()
    s.target.double()
    s.memory = {"centre": s.memory["centre"].double()}
    fill_memory(s)
    return s


def softmax(rows):
    return np.exp(rows) / np.exp(rows).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("local", [0, 2])
def test_loss_and_centre_are_those_of_the_papers_algorithm(local):
    """Algorithm 1 of Caron et al. 2021, pair by pair, with multi-crop."""
    s = dino(f"dino.local_crops_number={local}")
    b = batch(views=2 + local, dtype=torch.float64)
    b = replace(b, views=(*b.views[:2], *(view[..., :4, :4] for view in b.views[2:])))
    networks = copy.deepcopy(s.target).train(), copy.deepcopy(s.net)
    (taught, _), (said, _) = (
        network([torch.cat(part) for part in (b.views[:2], b.views[2:])[: 1 + (own and local > 0)]])
        for own, network in enumerate(networks)
    )
    centre, taught, said = s.memory["centre"].numpy().copy(), taught.detach().numpy(), said.detach().numpy()
    temperature = 0.04 + 2 / 29 * 0.03  # in epoch 2
    total, pairs = 0.0, 0
    for g in range(2):
        for c in range(2 + local):
            if g != c:
                wanted = softmax((taught[10 * g : 10 * g + 10] - centre) / temperature)
                given = np.log(softmax(said[10 * c : 10 * c + 10] / 0.1))
                total, pairs = total - (wanted * given).sum(axis=1).mean(), pairs + 1
    assert pairs == 2 + 2 * local
    assert s.losses(s.net, b)["loss"].item() == pytest.approx(total / pairs, rel=1e-10)
    np.testing.assert_allclose(s.memory["centre"].numpy(), 0.9 * centre + 0.1 * taught.mean(axis=0), rtol=1e-10)


def test_the_teachers_temperature_grows_over_its_epochs():
    s = stage("dino")
    assert [round(s.teacher_temp(epoch), 5) for epoch in (0, 29, 30, 500)] == [0.04, 0.07, 0.07, 0.07]
    assert stage("dino", "dino.warmup_teacher_temp_epochs=0").teacher_temp(0) == 0.07
    assert stage("dino", "dino.warmup_teacher_temp_epochs=1").teacher_temp(0) == 0.04


@pytest.mark.parametrize(("epoch", "learns"), [(0, False), (1, True)])
def test_the_last_layer_learns_nothing_in_the_first_epoch(epoch, learns):
    s = dino()
    s.losses(s.net, replace(batch(views=4, dtype=torch.float64), epoch=epoch))["loss"].backward()
    assert s.net.prototypes.weight.grad.any() == learns
    assert s.net.encoder.conv1.weight.grad.any()


def test_the_head_is_the_authors():
    def kinds(*overrides):
        return [type(module).__name__ for module in stage("dino", *overrides).net.projector]

    assert kinds() == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    assert kinds("dino.use_bn_in_head=true") == [*["Linear", "BatchNorm1d", "GELU"] * 2, "Linear"]


def test_outputs_are_cosines_and_do_not_depend_on_lengths():
    layer, rows = Prototypes(4, 6), torch.randn(3, 4)
    outputs = layer(rows, learns=True)
    assert outputs.abs().max() <= 1
    with torch.no_grad():
        layer.weight.mul_(3)
    torch.testing.assert_close(layer(5 * rows, learns=False), outputs)


def test_the_teacher_is_the_result():
    s = stage("dino")
    with torch.no_grad():
        s.net.encoder.conv1.weight.add_(1)
    artefact = s.artefact()
    assert torch.equal(artefact["encoder"]["conv1.weight"], s.target.encoder.conv1.weight)
    assert artefact.keys() == {"encoder", "projector", "prototypes"}
    assert s.eval_nets()["student"] is s.net
