import numpy as np
import pytest
import torch

from dist_rmd.distill.rotation import rotated

images = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def quarter(image):
    """One image C x S x S, a quarter turn counter-clockwise: its right column becomes its top row."""
    size = image.shape[1]
    found = np.empty_like(image)
    for y in range(size):
        for x in range(size):
            found[:, y, x] = image[:, x, size - 1 - y]
    return found


def test_each_image_comes_in_four_directions():
    found, labels = rotated(images)
    assert found.shape == (12, 2, 4, 4)
    assert labels.dtype == torch.int64
    for i, image in enumerate(images.numpy()):
        for j in range(4):
            assert labels[4 * i + j] == j
            np.testing.assert_array_equal(found[4 * i + j].numpy(), image)
            image = quarter(image)


def test_an_image_that_looks_alike_from_all_sides_cannot_be_told():
    found, labels = rotated(torch.ones(1, 3, 5, 5))
    assert torch.equal(found, torch.ones(4, 3, 5, 5))
    assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_type_and_memory_format_are_kept(memory_format, dtype):
    rows = (images * 50).to(dtype)
    found, _ = rotated(rows.contiguous(memory_format=memory_format))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=memory_format)
    assert torch.equal(found, rotated(rows)[0])


def test_shards_of_a_batch_are_its_rows():
    whole = rotated(images)
    for found, rows in zip(zip(*map(rotated, images.split([1, 0, 2])), strict=True), whole, strict=True):
        assert torch.equal(torch.cat(found), rows)


def test_finite_differences():
    assert torch.autograd.gradcheck(lambda x: rotated(x)[0], images[:1].clone().requires_grad_())


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 4)])
def test_only_square_images_are_turned(shape):
    with pytest.raises(ValueError, match="must be b x C x S x S, got"):
        rotated(torch.zeros(shape))
