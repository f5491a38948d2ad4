import numpy as np

from dist_rmd.suspects.twins import disagreeing_twins


def pictures(count=12, side=8):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def by_pixels(images):
    """The nearest neighbours of each picture, by its pixels."""
    flat = images.reshape(len(images), -1).astype(float)
    distance = ((flat[:, None] - flat) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1)[:, :5]


def groups(images, labels):
    return disagreeing_twins(by_pixels(images), np.array(labels), images.__getitem__).tolist()


def test_pictures_saved_twice_under_different_labels_are_a_group():
    images = pictures()
    noise = np.random.default_rng(1).integers(-4, 5, images.shape)
    saved_again = np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)
    images[5], images[6], images[9] = saved_again[0], (images[0] * 0.8 + 20).astype(np.uint8), saved_again[3]
    labels = np.arange(12) % 2
    labels[[0, 5, 6]], labels[[3, 9]] = [0, 0, 1], [1, 0]
    assert groups(images, labels) == [0, -1, -1, 1, -1, 0, 0, -1, -1, 1, -1, -1]


def test_twins_with_one_label_and_pictures_that_only_look_alike_are_none():
    images = pictures()
    images[4] = images[2]
    images[7] = images[1] // 2 + images[8] // 2
    labels = np.arange(12)
    labels[4] = labels[2]
    assert groups(images, labels) == [-1] * 12


def test_pictures_of_one_colour_are_twins_where_the_colour_is_one():
    images = pictures()
    images[0], images[1], images[2] = 10, 10, 200
    assert groups(images, np.arange(12)) == [0, 0] + [-1] * 10


def test_many_pairs_are_looked_at_in_parts(monkeypatch):
    sizes = []
    images = np.repeat(pictures(300), 2, axis=0)

    def some(rows):
        sizes.append(len(rows))
        return images[rows]

    nearest = np.arange(600)[:, None] ^ 1  # 0 <-> 1, 2 <-> 3, ...
    monkeypatch.setattr("dist_rmd.suspects.twins.CHUNK", 128)
    found = disagreeing_twins(nearest, np.arange(600), some)
    np.testing.assert_array_equal(found, np.arange(600) // 2)
    assert max(sizes) <= 128
