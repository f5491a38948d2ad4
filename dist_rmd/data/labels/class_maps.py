"""Class maps of asymmetric noise from the literature (true class -> noisy class), by the names of the classes."""

from collections.abc import Callable, Mapping, Sequence

from dist_rmd.errors import ConfigError

CIFAR10 = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
"""Patrini et al. 2017, https://arxiv.org/abs/1609.03683: noise falls on these classes alone, half of all images"""

COARSE = (
    "beaver dolphin otter seal whale", "aquarium_fish flatfish ray shark trout", "orchid poppy rose sunflower tulip",
    "bottle bowl can cup plate", "apple mushroom orange pear sweet_pepper", "clock keyboard lamp telephone television",
    "bed chair couch table wardrobe", "bee beetle butterfly caterpillar cockroach", "bear leopard lion tiger wolf",
    "bridge castle house road skyscraper", "cloud forest mountain plain sea",
    "camel cattle chimpanzee elephant kangaroo", "fox porcupine possum raccoon skunk", "crab lobster snail spider worm",
    "baby boy girl man woman", "crocodile dinosaur lizard snake turtle", "hamster mouse rabbit shrew squirrel",
    "maple_tree oak_tree palm_tree pine_tree willow_tree", "bicycle bus motorcycle pickup_truck train",
    "lawn_mower rocket streetcar tank tractor",
)  # fmt: skip
"""the 20 coarse classes of CIFAR-100 (Krizhevsky 2009)"""


def class_map(wanted: Mapping[int, int] | str | None, dataset: str, classes: Sequence[str]) -> dict[int, int]:
    """The class map of asymmetric noise, as class numbers: true class -> noisy class.

    wanted: the map itself, or a map's name, or None for the usual map of `dataset`: "cifar10" or "blocks".
        "cifar10": truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
        "blocks": each class becomes the next class of its block of five consecutive classes.  The literature often
            calls these blocks CIFAR-100's superclasses, which they are not.
        "coarse": each class becomes the next class of its coarse class in CIFAR-100.
    classes: names of all classes, in the order of their numbers.

    Raises ConfigError for an unknown name, for a map whose classes are not among `classes`, and where `dataset` has no
    usual map.
    """
    name = USUAL.get(dataset) if wanted is None else wanted
    if name is None:
        raise ConfigError(f"noise.kind=asymmetric of {dataset} needs a noise.class_map, {CHOICES}")
    if isinstance(name, Mapping):
        return _checked(name, len(classes))
    if name not in MAPS:
        raise ConfigError(f"noise.class_map={name}: there is no such map, give one {CHOICES}")
    return MAPS[name](classes)


def _checked(table: Mapping[int, int], count: int) -> dict[int, int]:
    for source, target in table.items():
        if not (0 <= source < count and 0 <= target < count):
            raise ConfigError(f"noise.class_map={{{source}: {target}}}: the classes are 0..{count - 1}")
        if source == target:
            raise ConfigError(f"noise.class_map={{{source}: {target}}} sends a class to itself: leave it out")
    return dict(table)


def _cifar10(classes: Sequence[str]) -> dict[int, int]:
    return {_number(source, classes): _number(target, classes) for source, target in CIFAR10.items()}


def _blocks(classes: Sequence[str]) -> dict[int, int]:
    if len(classes) % 5:
        raise ConfigError(f"noise.class_map=blocks needs a multiple of five classes, not {len(classes)}")
    return {label: label // 5 * 5 + (label + 1) % 5 for label in range(len(classes))}


def _coarse(classes: Sequence[str]) -> dict[int, int]:
    groups = [sorted(_number(name, classes) for name in names.split()) for names in COARSE]
    return {label: following for g in groups for label, following in zip(g, [*g[1:], g[0]], strict=True)}


def _number(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise ConfigError(f"noise.class_map speaks of a class {name}, which these images do not have: give another")
    return classes.index(name)


MAPS: dict[str, Callable[[Sequence[str]], dict[int, int]]] = {"cifar10": _cifar10, "blocks": _blocks, "coarse": _coarse}
USUAL = {"cifar10": "cifar10", "cifar100": "blocks"}
CHOICES = f"such as {{9: 1, 2: 0}}, or one of {', '.join(MAPS)}"
