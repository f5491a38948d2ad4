import pytest

from dist_rmd.data.labels.class_maps import COARSE, class_map
from dist_rmd.errors import ConfigError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(sorted(name for names in COARSE for name in names.split()))


def test_cifar10():
    assert class_map("cifar10", "folder", CIFAR10) == {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


def test_blocks_of_five():
    table = class_map("blocks", "folder", CIFAR100)
    assert [table[label] for label in (0, 3, 4, 5, 98, 99)] == [1, 4, 0, 6, 99, 95]


def test_coarse_classes():
    table = class_map("coarse", "folder", CIFAR100)
    assert sorted(table) == sorted(table.values()) == list(range(100))
    assert CIFAR100[table[CIFAR100.index("beaver")]] == "dolphin"
    assert CIFAR100[table[CIFAR100.index("whale")]] == "beaver"


def test_only_six_moves_within_blocks_stay_in_a_coarse_class():
    """A block of five is not a superclass, as is often said."""
    coarse = {name: number for number, names in enumerate(COARSE) for name in names.split()}
    blocks = class_map("blocks", "folder", CIFAR100)
    assert sum(coarse[CIFAR100[a]] == coarse[CIFAR100[b]] for a, b in blocks.items()) == 6


def test_the_usual_maps():
    assert class_map(None, "cifar10", CIFAR10) == class_map("cifar10", "folder", CIFAR10)
    assert class_map(None, "cifar100", CIFAR100) == class_map("blocks", "folder", CIFAR100)
    with pytest.raises(
        ConfigError, match=r"of digits needs a noise.class_map, such as {9: 1, 2: 0}, or one of cifar10"
    ):
        class_map(None, "digits", CIFAR10)


def test_a_map_of_ones_own():
    assert class_map({1: 0, 0: 1}, "cifar10", ("a", "b")) == {1: 0, 0: 1}


@pytest.mark.parametrize(
    ("wanted", "classes", "message"),
    [
        ("cifra10", CIFAR10, "no such map, give one such as .* or one of cifar10, blocks, coarse"),
        ("cifar10", ("a", "b"), "a class truck, which these images do not have"),
        ("coarse", CIFAR10, "a class beaver"),
        ("blocks", ("a", "b"), "multiple of five"),
        ({1: 2}, ("a", "b"), r"noise.class_map={1: 2}: the classes are 0..1"),
        ({-1: 0}, ("a", "b"), r"noise.class_map={-1: 0}: the classes are 0..1"),
        ({0: 1, 1: 1}, ("a", "b"), r"noise.class_map={1: 1} sends a class to itself"),
    ],
)
def test_maps_that_do_not_fit(wanted, classes, message):
    with pytest.raises(ConfigError, match=message):
        class_map(wanted, "folder", classes)
