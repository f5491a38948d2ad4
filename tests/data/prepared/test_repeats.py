import numpy as np

from dist_rmd.data.prepared.repeats import in_both, picture_hash, under_two_labels


def test_pictures_have_equal_hashes_only_when_they_are_equal():
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), np.uint8)
    assert len({picture_hash(image) for image in images}) == 200
    assert picture_hash(images[3].copy()) == picture_hash(images[3])
    assert 0 <= picture_hash(images[0]) < 2**64


def test_against_a_naive_search():
    rng = np.random.default_rng(1)
    for _ in range(50):
        train, test = rng.integers(0, 20, 30), rng.integers(0, 40, 10)
        labels = rng.integers(-1, 3, 30)
        both = in_both(train, test)
        assert [i for i, _ in both] == [i for i, h in enumerate(test) if h in train]
        assert all(test[i] == train[j] for i, j in both)
        pairs = list(zip(train.tolist(), labels.tolist(), strict=True))
        twice = [i for i, (h, label) in enumerate(pairs) if any(g == h and other != label for g, other in pairs)]
        assert under_two_labels(train, labels) == twice


def test_the_largest_hash_is_found():
    assert in_both([2**64 - 1, 5], [7, 2**64 - 1]) == [(1, 0)]
    assert under_two_labels([], np.array([], np.int64)) == []
