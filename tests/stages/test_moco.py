import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.recipe import batch, fill_memory, stage

from dist_rmd.engine.clock import Clock


def moco(*overrides):
    s = stage("moco", *overrides)
    s.net.double()
    s.target.double()
    s.memory = {"queue": s.memory["queue"].double()}
    fill_memory(s)
    return s


def test_three_steps_are_those_of_the_papers_algorithm():
    """Algorithm 1 of He et al. 2020, row by row, with a queue of 25 keys and batches of 10."""
    s, queue = moco("moco.T=0.5"), None
    for seed in range(3):
        b = batch(views=2, dtype=torch.float64, seed=seed)
        q, k = (F.normalize(rows).detach().numpy() for rows in (s.net(b.views[0]), s.target(b.views[1])))
        queue = s.memory["queue"].numpy().copy() if queue is None else queue
        losses = []
        for own, key in zip(q, k, strict=True):
            logits = np.array([own @ key, *(own @ other for other in queue)]) / 0.5
            losses.append(np.log(np.exp(logits).sum()) - logits[0])
        assert s.losses(s.net, b)["loss"].item() == pytest.approx(np.mean(losses), rel=1e-10)
        queue = np.concatenate([k, queue])[:25]
        np.testing.assert_allclose(s.memory["queue"].numpy(), queue, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1)


def test_keys_depend_on_no_other_image_of_the_batch():
    s, b = moco(), batch(views=2, dtype=torch.float64)
    s.losses(s.net, b)
    alone = F.normalize(s.target(b.views[1][3:4]))[0]
    torch.testing.assert_close(s.memory["queue"][3], alone, rtol=1e-12, atol=1e-12)


def test_the_key_encoder_follows_by_m_at_every_step():
    s = moco("moco.m=0.9")
    with torch.no_grad():
        s.net.encoder.conv1.weight.add_(1)
    for step in (1, 600):
        expected = 0.9 * s.target.encoder.conv1.weight + 0.1 * s.net.encoder.conv1.weight
        s.after_step(Clock(step=step))
        torch.testing.assert_close(s.target.encoder.conv1.weight, expected)
