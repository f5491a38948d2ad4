import numpy as np

from dist_rmd.data.prepared.repeats import in_both, near_pairs, picture_hash, under_two_labels


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


def test_near_pairs_are_those_of_a_naive_comparison_between_groups():
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, 60, np.uint64).tolist()
    for _ in range(40):  # with up to five bits turned
        flipped = hashes[draw.integers(len(hashes))]
        for bit in draw.choice(64, draw.integers(6), replace=False):
            flipped ^= 1 << int(bit)
        hashes.append(flipped)
    groups = draw.integers(0, 3, 100)
    naive = [
        [i, j]
        for i in range(100)
        for j in range(i + 1, 100)
        if (hashes[i] ^ hashes[j]).bit_count() <= 3 and groups[i] != groups[j]
    ]
    assert near_pairs(hashes, groups).tolist() == naive
    assert len(naive) > 5
    assert near_pairs([], np.zeros(0, np.int64)).shape == (0, 2)
