import torch
from support.recipe import batch

from dist_rmd.distill import mixup
from dist_rmd.stages._mixing import mix


def test_without_delta_the_batch_is_as_it_was():
    b = batch(views=2)
    mixed = mix(b, 0, 3)
    assert (mixed.views, mixed.own, mixed.other) == (b.views, b, None)
    assert torch.equal(mixed.terms(lambda b: {"a": b.labels})["a"], b.labels)


def test_views_and_what_is_said_under_each_label_are_mixed_alike():
    b = batch(views=2, dtype=torch.float64)
    mixed, drawn = mix(b, 1.0, 3), mixup.draw(3, b.epoch, b.number, 10, 1.0)
    w, j = drawn.weight, drawn.partner
    for found, view in zip(mixed.views, b.views, strict=True):
        torch.testing.assert_close(found, w * view + (1 - w) * view[j], rtol=1e-12, atol=1e-12)
    terms = mixed.terms(lambda b: {"label": b.labels.double(), "row": b.rows.double(), "index": b.indices.double()})
    for name, values in {"label": b.labels, "row": b.rows, "index": b.indices}.items():
        torch.testing.assert_close(terms[name], w * values.double() + (1 - w) * values[j].double())


def test_the_draw_is_keyed_by_seed_epoch_and_batch():
    weights = {mix(batch(), 1.0, seed).weight for seed in (0, 0, 1)}
    assert len(weights) == 2
