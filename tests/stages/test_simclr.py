import pytest
import torch
from support.recipe import batch, stage

from dist_rmd.distill.nt_xent import nt_xent


def test_loss_is_nt_xent_of_the_projections():
    s, b = stage("simclr", "simclr.temperature=0.5"), batch(views=2, dtype=torch.float64)
    s.net.double()
    z1, z2 = s.net(torch.cat(b.views)).chunk(2)
    assert z1.shape == (10, 16)
    assert s.losses(s.net, b)["loss"].item() == pytest.approx(nt_xent(z1, z2, [10], 0.5).mean().item(), rel=1e-12)
