import numpy as np
import pytest
import torch
from support.recipe import batch_for, stage

from dist_rmd.config import sections
from dist_rmd.errors import ConfigError
from dist_rmd.stages.sop import SOP


def doubled(*overrides):
    s = stage("sop", *overrides)
    s.net.double()
    values = torch.Generator().manual_seed(5)
    s.memory = {name: torch.rand(rows.shape, generator=values, dtype=torch.float64) for name, rows in s.memory.items()}
    return s


def authors(p, strong, u, v, labels, consistency, balance):
    """The loss of the authors' code, image by image; p and strong: predictions of both views."""
    losses, predictions = [], []
    for i, y in enumerate(np.eye(3)[labels]):
        more, less = np.clip(u[i] ** 2 * y, 0, 1), np.clip(v[i] ** 2 * (1 - y), 0, 1)
        prediction = np.maximum(p[i] + more - less, 1e-4)
        prediction = np.clip(prediction / prediction.sum(), 1e-4, 1)
        predictions.append(prediction)
        loss = -np.log(prediction[labels[i]]) + ((np.eye(3)[p[i].argmax()] + more - less - y) ** 2).sum()
        losses.append(loss + consistency * (p[i] * np.log(p[i] / strong[i])).sum())
    return np.mean(losses) - balance * np.log(np.clip(np.mean(predictions, axis=0), 1e-4, 1)).mean()


@pytest.mark.parametrize(("consistency", "balance"), [(0.0, 0.0), (0.9, 0.1)])
def test_the_loss_and_the_steps_of_u_and_v_are_those_of_the_authors_formula(consistency, balance):
    """The steps by differences of the loss, in which v is a constant of the first term and of the balance."""
    s = doubled(f"sop.consistency={consistency}", f"sop.balance={balance}", "sop.lr_u=3", "sop.lr_v=5")
    b = batch_for(s, dtype=torch.float64)
    labels, u, v = b.labels.numpy(), s.memory["u"][b.rows].numpy().copy(), s.memory["v"][b.rows].numpy().copy()
    with torch.no_grad():
        said = s.net(torch.cat(b.views))[0].softmax(1).numpy()
    p, strong = said[:10], said[-10:]

    def loss(u, v):
        return authors(p, strong, u, v, labels, consistency, balance)

    assert s.losses(s.net, b)["loss"].item() == pytest.approx(loss(u, v), rel=1e-9)
    for row in range(10):
        up, down = u.copy(), u.copy()
        up[row] += 1e-5
        down[row] -= 1e-5
        slope = (loss(up, v) - loss(down, v)) / 2e-5
        assert s.memory["u"][b.rows[row]].item() == pytest.approx(u[row, 0] - 3 * slope, abs=1e-6)
    y, decided = np.eye(3)[labels], np.eye(3)[p.argmax(axis=1)]
    more, less = np.clip(u**2 * y, 0, 1), np.clip(v**2 * (1 - y), 0, 1)
    slope = -2 * (decided + more - less - y) * 2 * v * (1 - y) / 10
    np.testing.assert_allclose(s.memory["v"][b.rows].numpy(), v - 5 * slope, rtol=1e-9, atol=1e-12)


def test_other_images_keep_their_values():
    s = doubled()
    b, before = batch_for(s, dtype=torch.float64), {name: rows.clone() for name, rows in s.memory.items()}
    s.losses(s.net, b)
    for name, rows in s.memory.items():
        assert torch.equal(rows[10:], before[name][10:])
        assert not torch.equal(rows[:10], before[name][:10])


def test_a_strong_view_is_made_only_for_consistency():
    assert stage("sop").views == ("weak",)
    assert stage("sop", "sop.consistency=0.9").views == ("weak", "strong")


@pytest.mark.parametrize("key", ["mixup=1", "kd=0.5", "relabel=true"])
def test_what_is_not_of_one_label_is_refused(key):
    with pytest.raises(ConfigError, match=f"task.{key.partition('=')[0]}: sop learns the noise"):
        SOP.check(SOP.scope(sections.parse(None, [f"task.{key}"])))


@pytest.mark.parametrize("value", ["lr_u=0", "lr_v=-1", "consistency=-1", "balance=-0.1"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"sop.{value.partition('=')[0]}"):
        stage("sop", f"sop.{value}")
