import numpy as np
import pytest
import torch
from support.recipe import batch, stage

from dist_rmd.errors import ConfigError


@pytest.mark.parametrize("temperature", [3, 1.5])
def test_loss_is_the_distillation_of_the_formula(temperature):
    s = stage("deepinversion", f"deepinversion.temperature={temperature}")
    for net in (s.net, s.teacher):
        net.double()
    b = batch(dtype=torch.float64)
    loss = s.losses(s.net, b)["loss"].item()
    with torch.no_grad():
        logits = [net(*b.views)[0].numpy() / temperature for net in (s.teacher, s.net)]
    p, q = (np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True) for rows in logits)
    assert loss == pytest.approx(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean(), rel=1e-9)


def test_it_needs_the_images_of_the_stage_before():
    s = stage("deepinversion")
    assert type(s).needs(None) == ("teacher", "inversion")
    assert len(s.made) == 30
    with pytest.raises(ConfigError, match=r"deepinversion\.batch_size=31: must be at most the 30 images made"):
        stage("deepinversion", "deepinversion.batch_size=31").batches(None, None, 0)
