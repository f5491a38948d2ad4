import numpy as np
import pytest
import torch
from support.recipe import batch, stage

from dist_rmd.stages.simsiam import Siamese


def test_loss_is_the_papers_equation_3():
    simsiam, b = stage("simsiam").net.double(), batch(views=2, dtype=torch.float64)
    p1, p2, z1, z2 = (out.detach().numpy() for out in simsiam(*b.views))

    def minus_cosine(q, y):
        return -np.mean([q_i @ y_i / np.linalg.norm(q_i) / np.linalg.norm(y_i) for q_i, y_i in zip(q, y, strict=True)])

    expected = minus_cosine(p1, z2) / 2 + minus_cosine(p2, z1) / 2
    loss = stage("simsiam").losses(simsiam, b)["loss"]
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_targets_give_no_gradient():
    """With the predictor's output held constant, nothing is left to learn from."""
    s, b = stage("simsiam"), batch(views=2)

    class Frozen(Siamese):
        def forward(self, view1, view2):
            p1, p2, z1, z2 = super().forward(view1, view2)
            return p1.detach().requires_grad_(), p2.detach(), z1, z2

    s.net.__class__ = Frozen
    s.losses(s.net, b)["loss"].backward()
    assert all(p.grad is None for p in s.net.parameters())


def test_views_do_not_share_batch_statistics():
    """A view's outputs do not depend on the other view."""
    net, (view1, view2) = stage("simsiam").net, batch(views=2).views
    first = net(view1, view2)[2]
    second = net(view1, view2 * 5)[2]
    assert torch.equal(first, second)


def test_predictor_may_keep_its_learning_rate():
    groups = stage("simsiam", "simsiam.fix_pred_lr=true").param_groups()
    assert [group.get("constant_lr", False) for group in groups] == [False, True]
    parameters = {id(p) for group in groups for p in group["params"]}
    s = stage("simsiam")
    assert len(parameters) == len(list(s.net.parameters()))


def test_options_of_the_methods_study():
    s = stage("simsiam", "simsiam.proj_layers=0", "simsiam.views=weak")
    assert s.views == ("weak", "weak")
    assert s.net(*batch(views=2).views)[2].shape == (10, 64)  # the encoder's features
    assert s.losses(s.net, batch(views=2))["loss"].isfinite()
