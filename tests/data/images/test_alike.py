import io

import numpy as np
from PIL import Image

from dist_rmd.data.images.alike import alike, perceptual_hash


def pictures(count, seed=0):
    """Smooth ones, as photographs are: n x 32 x 32 x 3."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (count, 6, 6, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in small])


def saved_again(image, quality=90):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def bits(one, other):
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def test_a_picture_saved_again_is_the_same_one_and_another_is_not():
    images = pictures(40)
    again = np.stack([saved_again(image) for image in images])
    assert np.mean([bits(*pair) <= 3 for pair in zip(images, again, strict=True)]) > 0.9
    assert alike(images, again).all()
    assert min(bits(images[i], images[j]) for i in range(40) for j in range(i)) > 3
    assert not alike(images[:-1], images[1:]).any()
    darker = (images * 0.7).astype(np.uint8)
    assert alike(images, darker).all()
