import pytest
from support.sweep_folders import SweepFolder

from dist_rmd.sweep.comparison import Comparison
from dist_rmd.sweep.results import read

LOSSES = ["CE", "GCE", "SCE", "NCE_AGCE", "NCE_AEL"]
BOTH, NOISES = ["cifar10", "cifar100"], ["symmetric", "asymmetric", "pairflip"]
GRIDS = {  # the axes of the paper's tables
    "1": {"dataset": BOTH, "method": [f"{a}{b}" for b in ("", "+RMDNet") for a in LOSSES], "noise": NOISES,
          "rate": ["0.1", "0.2", "0.4"]},
    "2": {"dataset": BOTH, "method": ["CE", "CE+RGRL", "CE+RGRL (K=5)", "CE+RGRL+RM"], "noise": ["symmetric"],
          "rate": ["0.1", "0.2"]},
    "3": {"dataset": ["cifar100"], "method": [f"{a}+RMDNet (K={k})" for a in ("CE", "NCE_AGCE") for k in (1, 0.001, 0)],
          "noise": ["symmetric"], "rate": ["0.2", "0.4"]},
    "4": {"dataset": ["cifar10"], "method": [f"NCE_AGCE+RMDNet (K={k})" for k in (1, 0.001, 0)], "noise": NOISES,
          "rate": ["0.2", "0.4"]},
    "5": {"dataset": BOTH, "method": [f"NCE_AGCE+RMDNet (K={k})" for k in (1, 0.001, 0)], "noise": ["symmetric"],
          "rate": ["0.2", "0.4"]},
}  # fmt: skip


@pytest.fixture
def laid_out(tmp_path):
    """laid_out(axes, ...) -> the folder, and a function that compares what is in it."""

    def laid_out(axes, seeds=(0,), **plan):
        folder = SweepFolder(tmp_path, axes, seeds, **plan)
        return folder, lambda: Comparison(read([folder.folder]))

    return laid_out


def shape(results):
    """Per block: title, number of rows, headings."""
    return [(b.title, len(b.rows), [" ".join(results.heading(column)) for column in b.columns]) for b in results.blocks]


EVERY = [f"{noise} {rate}" for noise in NOISES for rate in ("0.1", "0.2", "0.4")]


@pytest.mark.parametrize(
    ("table", "shapes"),
    [
        ("1", [("cifar10", 10, EVERY), ("cifar100", 10, EVERY)]),
        ("2", [(f"{data}, symmetric", 4, ["rate 0.1", "rate 0.2"]) for data in BOTH]),
        ("3", [("cifar100, symmetric", 6, ["rate 0.2", "rate 0.4"])]),
        ("4", [("cifar10", 3, [heading for heading in EVERY if "0.1" not in heading])]),
        ("5", [(f"{data}, symmetric", 3, ["rate 0.2", "rate 0.4"]) for data in BOTH]),
    ],
)
def test_the_tables_of_rmdnet_look_like_the_papers_and_every_cell_has_its_number(laid_out, table, shapes):
    _, compare = laid_out(GRIDS[table], published="rmdnet", table=table)
    results = compare()
    assert shape(results) == shapes
    assert all(results.published(cell) for cell in results.sweep.cells.values())
    assert sum(len(block.cells) for block in results.blocks) == len(results.sweep.cells)


@pytest.mark.parametrize(
    ("table", "axes", "shapes"),
    [
        ("1", {"dataset": ["cifar10+imagenet", "cifar100+imagenet"], "method": ["VKD", "DFND", "MODUL"],
               "pair": ["resnet34-resnet18"], "rho1": ["0.25", "0.5"], "rho2": ["0.5", "0.75"]},
         [(f"{data}+imagenet, resnet34-resnet18", 3,
           [f"rho1 {one} rho2 {two}" for one in ("0.25", "0.5") for two in ("0.5", "0.75")]) for data in BOTH]),
        ("2", {"method": ["VKD", "DFND", "MODUL"], "pair": ["resnet34-resnet18", "vgg16-vgg13"]},
         [("", 3, ["resnet34-resnet18", "vgg16-vgg13"])]),
        ("3", {"method": ["DFND", "MODUL"], "dataset": BOTH}, [("", 2, BOTH)]),
        ("5", {"dataset": ["cifar10+imagenet"], "method": ["No Mixup", "MODUL"], "rho1": ["0.5"],
               "rho2": ["0.25", "0.5"]}, [("cifar10+imagenet, rho1 0.5", 2, ["rho2 0.25", "rho2 0.5"])]),
    ],
)  # fmt: skip
def test_the_tables_of_modul_too(laid_out, table, axes, shapes):
    _, compare = laid_out(axes, published="modul", table=table)
    results = compare()
    assert shape(results) == shapes
    assert all(results.published(cell) for cell in results.sweep.cells.values())


def test_values_are_joined_with_the_papers_by_the_names_that_a_grid_gives(laid_out):
    axes = {"dataset": ("cifar10",), "set": ("divided",), "method": ("CE", "CE+Mixup", "plus")}
    names = {"CE": "Cross entropy without mixup", "CE+Mixup": "Cross entropy with mixup"}
    _, compare = laid_out(axes, published="modul", table="4", names=names)
    results = compare()
    found = {cell.coordinates[-1]: results.published(cell) for cell in results.sweep.cells.values()}
    assert {method: printed and printed.accuracy for method, printed in found.items()} == {
        "CE": 87.53, "CE+Mixup": 93.55, "plus": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "shapes"),
    [
        ({"k": ["0.1", "1"]}, [("", 2, ["accuracy"])]),
        ({"k": ["1"]}, [("", 1, ["accuracy"])]),
        ({"method": ["CE"]}, [("", 1, ["accuracy"])]),
        ({"k": ["0.1", "1"], "noise": ["symmetric", "pairflip"]}, [("", 2, ["symmetric", "pairflip"])]),
        ({"seen": ["a", "b"], "k": ["0.1", "1"], "noise": ["symmetric", "pairflip"], "rate": ["0.2", "0.4"]},
         [(name, 2, ["symmetric 0.2", "symmetric 0.4", "pairflip 0.2", "pairflip 0.4"]) for name in "ab"]),
    ],
)  # fmt: skip
def test_grids_of_ones_own_without_published_numbers(laid_out, axes, shapes):
    _, compare = laid_out(axes)
    results = compare()
    assert shape(results) == shapes
    assert not any(results.published(cell) for cell in results.sweep.cells.values())


def test_a_grid_with_holes_has_only_the_columns_that_there_are(laid_out):
    folder, compare = laid_out({"method": ["CE", "GCE"], "noise": ["symmetric", "pairflip"], "rate": ["0.2", "0.4"]})
    hole = {"noise": "pairflip", "rate": "0.2"}
    folder.cells = [cell for cell in folder.cells if not hole.items() <= cell["coordinates"].items()]
    folder.write()
    assert shape(compare()) == [("", 2, ["symmetric 0.2", "symmetric 0.4", "pairflip 0.4"])]


def test_differences_and_gains(laid_out):
    """Gains are paired: only seeds that both have finished count."""
    folder, compare = laid_out(
        {**GRIDS["1"], "method": ["CE", "CE+RMDNet"]},
        seeds=(0, 1, 2), published="rmdnet", table="1", compare={"CE+RMDNet": "CE"},
    )  # fmt: skip
    at = ("cifar10", "symmetric", "0.2")
    for seed, without, with_it in ((0, 80.0, 84.0), (1, 81.0, 86.0), (2, None, 99.0)):
        if without is not None:
            folder.finish(at[0], "CE", *at[1:], seed=seed, curve=[without])
        folder.finish(at[0], "CE+RMDNet", *at[1:], seed=seed, curve=[with_it])
    results = compare()
    cells = results.sweep.cells
    baseline, better = (cells[at[0], method, at[1], at[2]] for method in ("CE", "CE+RMDNet"))
    assert results.baseline(better) is baseline
    assert results.baseline(baseline) is None
    assert results.gains(better) == [4.0, 5.0]
    assert results.gains(baseline) == []
    assert results.published_gain(better) == pytest.approx(85.20 - 80.73)
    assert results.published_gain(baseline) is None
    assert results.difference(baseline) == pytest.approx(80.5 - 80.73)
    assert results.difference(cells["cifar10", "CE", "pairflip", "0.4"]) is None


def test_doubts_about_printed_numbers_are_numbered_once(laid_out):
    _, compare = laid_out(GRIDS["3"], published="rmdnet", table="3")
    assert compare().notes == ["exactly chance: a collapsed network"]  # of two cells


def test_numbers_of_another_recipe_have_another_name(laid_out):
    _, compare = laid_out(GRIDS["3"], changed=["model.width: 64 -> 16"])
    assert compare().published_name == "published, full size"
    _, compare = laid_out(GRIDS["3"])
    assert compare().published_name == "published"
