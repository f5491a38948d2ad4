from dataclasses import replace

import pytest
import torch
from support import small
from support.recipe import batch

from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.pipeline.pictures import LINE, framed, views


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(small.prepare(tmp_path_factory.mktemp("data")))


def test_views_stand_over_their_given_labels_which_are_red_where_they_are_wrong(dataset):
    seen = batch(views=2, size=5)
    shown = views(dataset, seen)
    side = 68  # 8 pixels, 4 times as large, framed, twice as large again
    assert shown.shape == (2 * 5, 3, side + LINE, side)
    assert (shown.min() >= 0) & (shown.max() <= 1)
    pixels, lines = shown[:, :, :side], shown[:, :, side:]
    first = framed(dataset, seen.views[0])
    torch.testing.assert_close(pixels[0::2, :, ::2, ::2], first)
    assert torch.equal(lines[0::2], lines[1::2]), "both views of an image have its label"
    half = views(dataset, replace(seen, views=(seen.views[0], seen.views[1][..., ::2, ::2])))
    assert torch.equal(half[0::2], shown[0::2]), "a smaller view is enlarged"
    assert half.shape == shown.shape
    other = views(dataset, replace(seen, labels=(seen.labels + 1) % 3))
    assert torch.equal(other[:, :, :side], pixels)
    assert not any(torch.equal(mine, others) for mine, others in zip(lines, other[:, :, side:], strict=True))
    for line, right in zip(lines[0::2], seen.right.tolist(), strict=True):
        assert (line[0].max() > line[1].max()) is not right
    unknown = views(dataset, replace(seen, right=None))[:, :, side:]
    assert torch.equal(unknown[:, 0], unknown[:, 1]), "white, where nobody knows"


def test_no_more_than_a_page_of_them(dataset):
    assert len(views(dataset, batch(views=2, size=100))) == 64
