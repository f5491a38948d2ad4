import pytest

from dist_rmd.config import sections
from dist_rmd.errors import ConfigError
from dist_rmd.losses._build import LossConfig
from dist_rmd.stages._task import TaskConfig
from dist_rmd.stages.simsiam import SimSiamConfig
from dist_rmd.sweep import grid

TEXT = """
title: A title
published: {paper: rmdnet, table: 1}
seeds: [0, 3]
config: base.yaml
set: {simsiam.seed: 0, relation.k: 5}
axes:
  method:
    CE: {stages: [classifier]}
    CE+RMDNet (K=1): {relation.k: 1}
  rate:
    0.2: {noise.rate: 0.2}
    0.4: {noise.rate: 0.4, config: other.yaml}
rules:
  - {if: {method: CE, rate: [0.2, 0.4]}, set: {task.lr: 0.1}}
  - {if: {rate: 0.4}, set: {task.lr: 0.2}}
compare: {CE+RMDNet (K=1): CE}
search: {key: relation.k, values: [0.1, 1], holdout: 0.2, if: {method: CE+RMDNet (K=1)}}
"""


@pytest.fixture
def load(tmp_path):
    def load(text=TEXT, **options):
        (tmp_path / "made-up.yaml").write_text(text)
        return grid.load(tmp_path / "made-up.yaml", **options)

    return load


def test_every_combination_is_a_cell_and_every_seed_a_run(load, tmp_path):
    made = load()
    assert [cell.name for cell in made.cells[:3]] == ["CE-0.2-seed0", "CE-0.2-seed3", "CE-0.4-seed0"]
    assert made.cells[-1].name == "CE+RMDNet_K=1-0.4-seed3"
    assert made.axes == {"method": ["CE", "CE+RMDNet (K=1)"], "rate": ["0.2", "0.4"]}
    assert (made.name, made.title, made.seeds) == ("made-up", "A title", [0, 3])
    assert (made.published, made.compare) == ({"paper": "rmdnet", "table": "1"}, {"CE+RMDNet (K=1)": "CE"})
    assert made.cells[0].coordinates == {"method": "CE", "rate": "0.2"}
    assert made.cells[0].file == tmp_path / "base.yaml"
    assert made.cells[2].file == tmp_path / "other.yaml"


def test_settings_of_all_then_axes_then_rules_then_later_rules(load):
    settings = {cell.name: cell.settings for cell in load().cells}
    assert settings["CE-0.2-seed3"] == {
        "seed": 3, "noise.seed": 3, "simsiam.seed": 0, "relation.k": 5, "stages": ["classifier"], "noise.rate": 0.2,
        "task.lr": 0.1,
    }  # fmt: skip
    assert settings["CE-0.4-seed0"]["task.lr"] == 0.2
    assert settings["CE+RMDNet_K=1-0.2-seed0"]["relation.k"] == 1


def test_overrides_are_what_the_command_line_takes(load):
    cell = load().cells[1].having({"loss.options": {"q": 0.5}, "loss.name": "gce"})
    config = sections.parse(None, cell.overrides())
    assert (config.seed, config.noise.seed, config.section(SimSiamConfig).seed) == (3, 3, 0)
    assert config.stages == ("classifier",)
    assert (config.noise.rate, config.section(TaskConfig).lr) == (0.2, 0.1)
    assert config.section(LossConfig).options == {"q": 0.5}


def test_the_grid_may_settle_the_seed_of_the_noise(load):
    made = load(TEXT.replace("simsiam.seed: 0,", "noise.seed: 7,"))
    assert {cell.settings["noise.seed"] for cell in made.cells} == {7}


def test_other_seeds_and_some_cells(load):
    made = load(seeds=[8]).only({"rate": ["0.4"]})
    assert [cell.name for cell in made.cells] == ["CE-0.4-seed8", "CE+RMDNet_K=1-0.4-seed8"]
    assert made.axes == {"method": ["CE", "CE+RMDNet (K=1)"], "rate": ["0.4"]}
    assert [cell.name for cell in load().only({"rate": 0.2, "method": "CE"}).cells] == ["CE-0.2-seed0", "CE-0.2-seed3"]


def test_cells_that_there_are_not(load):
    made = load(TEXT + "skip: [{method: CE, rate: 0.2}]")
    assert [cell.place for cell in made.cells[::2]] == ["CE-0.4", "CE+RMDNet_K=1-0.2", "CE+RMDNet_K=1-0.4"]
    with pytest.raises(ConfigError, match=r"there is no cell at method=CE, rate=0\.2"):
        made.only({"method": ["CE"], "rate": ["0.2"]})


def test_values_are_called_as_they_are_spelled(load):
    text = TEXT.replace("0.2:", "yes:").replace("rate: [0.2,", "rate: [yes,").replace("0.4:", "0.40:")
    made = load(text.replace("0.4]", "0.40]").replace("rate: 0.4}", "rate: 0.40}"))
    assert made.axes["rate"] == ["yes", "0.40"]


def test_a_key_given_twice_is_refused(load):
    with pytest.raises(ConfigError, match=r"made-up.*'seeds' is given twice"):
        load(TEXT + "seeds: [4]\n")


def test_the_search(load):
    found = load().search
    assert (found.key, found.values, found.holdout, found.seeds) == ("relation.k", (0.1, 1), 0.2, (0,))
    assert found.condition == {"method": "CE+RMDNet (K=1)"}
    assert load(TEXT.partition("search:")[0]).search is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title:", "titel:", "unknown key 'titel'; a grid has title, folder, published"),
        ("table: 1}", "table: 1, names: {CEE: CE}}", "published.names: no axis has 'CEE'"),
        ("compare: {CE+RMDNet (K=1): CE}", "compare: method", "compare must be `name: value` lines, got 'method'"),
        ("config: base.yaml", "", r"no `config` for method=CE, rate=0\.2"),
        ("seeds: [0, 3]", "seeds: [0, 0]", r"seeds must be different whole numbers.*\[0, 0\]"),
        ("seeds: [0, 3]", "seeds: [-1]", r"seeds=.*expected a list, each entry a whole number from 0 on"),
        ("{stages: [classifier]}", "ce", "method CE must set keys"),
        ("{method: CE, rate: [0.2, 0.4]}", "{loss: CE}", "no axis 'loss'; the axes are method, rate"),
        ("{if: {rate: 0.4}", "{if: {rate: 0.3}", r"rate has no '0\.3'; it has 0\.2, 0\.4"),
        ("{if: {rate: 0.4}, set: {task.lr: 0.2}}", "{set: {task.lr: 0.2}}", "a rule is {if:"),
        ("holdout: 0.2", "holdout: 1.5", r"search\.holdout=1\.5: expected a number from 0 to below 1"),
        ("holdout: 0.2", "hold: 0.2", "search has key, values, holdout, seeds and if"),
        ("compare: {", "compare: {CE+GCE: CE, ", "compare: method has no 'CE[+]GCE'"),
        (TEXT, "title: x\nconfig: base.yaml", "needs axes"),
        ("  rate:", "    CE*: {}\n  rate:", r"CE, rate=0\.2 and method=CE\*, rate=0\.2 would share the folder CE-0"),
        ("  rate:", "    '***': {}\n  rate:", r"'\*\*\*' has no letter or digit"),
        ("  rate:", f"    {'x' * 300}: {{}}\n  rate:", "longer than the name of a folder may be"),
        ("values: [0.1, 1]", "values: [0.1, '0.1']", "values must be different ones"),
    ],
)
def test_mistakes_are_named(load, old, new, words):
    assert old in TEXT
    with pytest.raises(ConfigError, match=f"made-up.*{words}"):
        load(TEXT.replace(old, new))


def test_the_tables_of_the_paper():
    folder = grid.Path(__file__).resolve().parents[2] / "configs" / "rmdnet"
    runs = {name: len(grid.load(folder / f"table{name}.yaml", seeds=[0]).cells) for name in range(1, 6)}
    assert runs == {1: 180, 2: 16, 3: 12, 4: 18, 5: 12}
    k = {cell.name: cell.settings.get("relation.k") for cell in grid.load(folder / "table1.yaml", seeds=[0]).cells}
    assert k["cifar10-NCE_AGCE+RMDNet-symmetric-0.2-seed0"] == 1
    assert k["cifar10-NCE_AGCE+RMDNet-pairflip-0.2-seed0"] == 0.001
    assert k["cifar100-CE+RMDNet-symmetric-0.4-seed0"] == 1
    assert "cifar10-CE-symmetric-0.1-seed0" in k
    for name in range(1, 6):
        for cell in grid.load(folder / f"table{name}.yaml", seeds=[0]).cells[::7]:
            assert sections.parse(cell.file, cell.overrides()).section(SimSiamConfig).seed == 0
