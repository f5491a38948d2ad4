"""Conventions, checked on the code's syntax trees: who imports whom, what every plug-in has, what is forbidden."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_rmd import registry
from dist_rmd.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PLUG_INS = ("losses", "stages", "evaluation", "data.datasets", "models.encoders", "trackers")

# Module or package -> what it may import inside dist_rmd, apart from errors.  A package stands for all its modules,
# * for all of dist_rmd; the longest entry that fits a module counts.
ROOMS = {
    "": "cli.terminal data.labels data.prepared.beton distill.division distill.relation losses._build pipeline.runner "
    "run.finished",
    "errors": "",
    "files": "",
    "registry": "cli.extras",
    "text": "text",
    "cli": "cli",
    "published": "",
    "config": "cli.paths config registry text",
    "distributed": "config distributed engine.signals",
    "distributed.collectives": "",
    "distributed.sync_batchnorm": "distributed.collectives models.batchnorm",
    "data.datasets": "cli.paths data.datasets data.images data.labels.lists data.labels.look_alikes data.labels.noise "
    "text",
    "data.images": "data.images",
    "data.prepared": "data.datasets.base data.images data.labels data.prepared files text",
    "data.labels": "data.labels files text",
    "data.labels.files": "data.labels data.prepared.beton text",
    "data.labels.instance_noise": "data.labels data.prepared.beton",
    "data.augment": "data.augment engine.precision",
    "data.loading": "config data.augment data.labels data.loading data.prepared",
    "models": "cli.extras distributed.collectives models registry",
    "losses": "",
    "losses._build": "registry",
    "distill": "data.augment.keyed_rng distill distributed.collectives engine.precision",
    "stages": "config data.augment.keyed_rng data.labels data.loading distill distributed.collectives losses models "
    "registry stages suspects.probabilities suspects.scores",
    "engine": "config distributed engine files run.folder trackers.base",
    "engine.precision": "",
    "trackers": "config trackers.base",
    "trackers.base": "",
    "run.folder": "config files",
    "run.lock": "run.folder",
    "run.artefacts": "engine.checkpoint files",
    "run.start": "config files run",
    "run.foreign": "cli.extras config engine.checkpoint models.encoder run.artefacts",
    "run.prediction": "data.augment data.images run.artefacts",
    "run.saved": "engine models run.artefacts",
    "run.finished": "cli.paths config data distributed engine files run",
    "pipeline": "config data distributed engine evaluation files models pipeline registry run stages.base "
    "suspects.probabilities trackers.base",
    "pipeline.command": "cli config distributed engine pipeline",
    "evaluation": "data.labels data.loading distributed.collectives evaluation models",
    "suspects": "data.images.alike evaluation._nearest suspects text",
    "suspects.__main__": "cli.terminal report",
    "reports": "cli.paths config data distill.division distributed engine.writers evaluation files losses._build "
    "pipeline.folds published registry reports run stages.division stages.rgrl suspects sweep text",
    "sweep": "cli config data.prepared.beton distributed engine files pipeline published run sweep text",
    "cluster": "cli cluster config distributed engine.signals files pipeline.command run.folder sweep text",
    "train": "distributed.launcher pipeline.command",
    "__main__": "cli.terminal",
    "evaluate": "*",
    "predict": "*",
    "export": "cli.extras export models run.saved",
    "export.__main__": "*",
    "prepare": "*",
    "clean": "*",
    "report": "*",
    "slurm": "*",
    "sweep.__main__": "*",
}

# The objects that do nothing off rank 0.
RANK_AWARE = {
    "distributed/processes.py", "distributed/rendezvous.py", "distributed/rank_group.py",
    "distributed/collectives.py", "engine/writers.py", "engine/console.py",
}  # fmt: skip
VAGUE = {"utils", "util", "misc", "common", "helpers", "helper"}
UNSEEN = "jsonargparse.typing"  # its types are Any to mypy: those of dist_rmd/config/key_types.py are not
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}
MIRROR_NOTHING = {
    Path(f"test_{name}.py")
    for name in ("conventions", "disturbed_runs", "elastic", "exact_resume", "plug_ins", "stage_seam", "typing")
}


def sources(folder: Path) -> list[Path]:
    """All Python files below `folder`."""
    return sorted(folder.rglob("*.py"))


def tree(path: Path) -> list[ast.AST]:
    """All nodes of the file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text(), str(path))))


def write(folder: Path, *names: str, text: str = "") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def under(name: str, package: str) -> bool:
    """`name` is the module or package `package`, or inside it."""
    return f"{name}.".startswith(f"{package}.")


def last_name(node: ast.AST) -> str:
    """a.b.c -> c; "" for anything else than a dotted name."""
    return getattr(node, "attr", getattr(node, "id", ""))


# Imports


def module_name(package: Path, path: Path) -> str:
    """dist_rmd/data/augment/views.py -> data.views; a package's __init__.py -> the package ("" for dist_rmd itself)."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(package: Path, path: Path) -> Iterator[str]:
    """The modules of `package` that the file imports anywhere in it, by statement or by import_module."""
    here = path.relative_to(package.parent).parent.parts

    def inside(dotted: str) -> Iterator[str]:
        top, _, rest = dotted.partition(".")
        if top == package.name:
            yield rest

    for node in tree(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from inside(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                target = package.parent.joinpath(*base, alias.name)
                is_module = target.is_dir() or target.with_suffix(".py").exists()
                yield from inside(".".join([*base, alias.name] if is_module else base))
        elif isinstance(node, ast.Call) and last_name(node.func) == "import_module":
            yield from inside(getattr(node.args[0], "value", ""))


def wrong_imports(package: Path) -> list[str]:
    """What contradicts ROOMS, one line each."""
    wrong = []
    for path in sources(package):
        name = module_name(package, path)
        room = max((room for room in ROOMS if under(name, room)), key=len, default=None)
        if room is None and path.name != "__init__.py":
            wrong.append(f"{name} has no entry in ROOMS")
            continue
        allowed = ["", "errors", *(ROOMS[room].split() if room is not None else [])]
        for imported in imports(package, path):
            # "" is dist_rmd/__init__.py, which holds the version.
            if "*" not in allowed and imported and not any(under(imported, a) for a in allowed if a):
                wrong.append(f"{name} imports {imported}")
    return wrong


def test_imports():
    assert wrong_imports(ROOT / "dist_rmd") == []


EXISTING = {
    "": "train registry",
    "distributed": "collectives",
    "data/labels": "noise view",
    "data/loading": "batch loader",
    "data/prepared": "beton",
    "engine": "loop",
    "losses": "ce",
    "models": "resnet",
    "stages": "base",
}


@pytest.mark.parametrize(
    ("file", "text", "violation"),
    [
        ("losses/sce.py", "import dist_rmd.models.resnet", "losses.sce imports models.resnet"),
        ("losses/sce.py", "import dist_rmd.distributed.collectives", "losses.sce imports distributed.collectives"),
        ("losses/sce.py", "from . import ce", "losses.sce imports losses.ce"),
        ("losses/sce.py", "from ..models import resnet", "losses.sce imports models.resnet"),
        ("losses/sce.py", "from dist_rmd import registry", "losses.sce imports registry"),
        ("engine/loop.py", "def f():\n    from dist_rmd.stages.base import Stage", "engine.loop imports stages.base"),
        ("engine/loop.py", "from dist_rmd.registry import lookup", "engine.loop imports registry"),
        ("engine/loop.py", "importlib.import_module('dist_rmd.losses')", "engine.loop imports losses"),
        ("engine/loop.py", "if TYPE_CHECKING:\n    from dist_rmd import models", "engine.loop imports models"),
        ("data/labels/noise.py", "from dist_rmd.data import loading", "data.labels.noise imports data.loading"),
        ("data/images/gif.py", "import dist_rmd.data.prepared.beton", "data.images.gif imports data.prepared.beton"),
        ("data/datasets/__init__.py", "import dist_rmd.train", "data.datasets imports train"),
        ("__init__.py", "from dist_rmd.train import main", " imports train"),
        ("models/vgg.py", "from dist_rmd.losses.ce import CE", "models.vgg imports losses.ce"),
        ("stages/divide.py", "from dist_rmd.engine import loop", "stages.divide imports engine.loop"),
        ("stages/divide.py", "from dist_rmd.data.prepared import ahead", "stages.divide imports data.prepared"),
        ("reports/table.py", "from dist_rmd.stages.base import Stage", "reports.table imports stages.base"),
        ("novelty.py", "", "novelty has no entry in ROOMS"),
        ("losses/sce.py", "from dist_rmd.errors import ConfigError\nfrom dist_rmd import __version__", None),
        ("stages/divide.py", "from dist_rmd.stages.base import Stage\nfrom dist_rmd.losses import ce", None),
        ("evaluate.py", "from dist_rmd.engine import loop\nimport dist_rmd.models.resnet", None),
    ],
)
def test_a_planted_import_is_found(tmp_path, file, text, violation):
    package = tmp_path / "dist_rmd"
    for folder, names in EXISTING.items():
        write(package / folder, *(f"{name}.py" for name in names.split()))
    write(package, file, text=text)
    assert wrong_imports(package) == ([violation] if violation else [])


# Plug-ins


@pytest.mark.parametrize("kind", [*PLUG_INS, "reports"])
def test_a_plug_in_has_one_public_object(kind):
    assert registry.available(kind)
    absent = []
    for name in registry.available(kind):
        try:
            found = registry.lookup(kind, name)  # raises unless __all__ has exactly one name
        except ConfigError as error:
            absent.append(str(error))
            continue
        assert found.__module__ == f"dist_rmd.{kind}.{name}"
    if absent:
        assert kind == "trackers", absent
        pytest.skip("; ".join(absent))


def untested(root: Path) -> list[str]:
    """The tests that plug-ins lack."""
    folders = [kind.replace(".", "/") for kind in PLUG_INS]
    modules = [path for folder in folders for path in sources(root / "dist_rmd" / folder)]
    plug_ins = [path for path in modules if not path.name.startswith("_")]
    tests = [root / "tests" / p.relative_to(root / "dist_rmd").with_name(f"test_{p.name}") for p in plug_ins]
    return [str(test.relative_to(root)) for test in tests if test.name != "test_base.py" and not test.exists()]


def test_a_plug_in_has_a_test(tmp_path):
    assert untested(ROOT) == []
    write(tmp_path / "dist_rmd", "data/datasets/svhn.py", "losses/ce.py", "stages/base.py")
    write(tmp_path / "tests", "losses/test_ce.py")
    assert untested(tmp_path) == ["tests/data/datasets/test_svhn.py"]


# Tests


def stray_tests(root: Path) -> list[str]:
    """Test files whose mirrored path is neither a module (_x.py has test_x.py), a package, nor a script."""
    strays = []
    for path in sources(root / "tests"):
        place = path.relative_to(root / "tests")
        if not place.name.startswith("test_") or place in MIRROR_NOTHING:
            continue
        mirrored = place.with_name(place.stem.removeprefix("test_"))
        private = mirrored.with_name(f"_{mirrored.name}")
        candidates = [root / "dist_rmd" / mirrored, root / "dist_rmd" / private, root / mirrored]
        if not any(c.with_suffix(suffix).exists() for c in candidates for suffix in ("", ".py", ".sbatch")):
            strays.append(str(place))
    return strays


def test_tests_mirror_modules(tmp_path):
    assert stray_tests(ROOT) == []
    write(tmp_path, "dist_rmd/losses/ce.py", "tools/setup")
    write(tmp_path, *(f"tests/{name}" for name in ("losses/test_ce.py", "losses/test_sce.py", "tools/test_setup.py")))
    assert stray_tests(tmp_path) == ["losses/test_sce.py"]


# Forbidden things


def product() -> list[Path]:
    return [path for folder in ("dist_rmd", "launch", "tools") for path in sources(ROOT / folder)]


def test_names_say_what_is_inside():
    everything = [*product(), *sources(ROOT / "tests")]
    vague = [path for path in everything if VAGUE & {*path.relative_to(ROOT).with_suffix("").parts}]
    assert vague == []


def compares_rank(nodes: list[ast.AST]) -> bool:
    """The code asks for one particular rank: `rank == 0`, `get_rank() != 0`, `not self.rank`, ..."""

    def is_rank(node: ast.AST) -> bool:
        name = last_name(node.func if isinstance(node, ast.Call) else node)
        return name == "rank" or name.endswith("_rank")

    for node in nodes:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(is_rank, sides)) and any(isinstance(side, ast.Constant) for side in sides):
                return True
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and is_rank(node.operand):
            return True
    return False


def test_rank_is_known_in_few_files():
    aware = {str(p.relative_to(ROOT / "dist_rmd")) for p in sources(ROOT / "dist_rmd") if compares_rank(tree(p))}
    assert aware <= RANK_AWARE


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("if rank == 0: pass", True),
        ("x = 0 == dist.get_rank()", True),
        ("if not self.rank: pass", True),
        ("if local_rank != 0: pass", True),
        ("rank = 0", False),
        ("if ranks == 1 or rank < world: pass", False),
    ],
)
def test_a_planted_rank_is_found(code, found):
    assert compares_rank(list(ast.walk(ast.parse(code)))) is found


def test_number_types_are_those_that_mypy_sees():
    imported = [path for path in product() for node in tree(path) if getattr(node, "module", "") == UNSEEN]
    assert imported == []


def ours() -> list[Path]:
    return [path for folder in ("dist_rmd", "launch") for path in sources(ROOT / folder)]


FILES = {
    "run/folder.py": "config.yaml env.json run.lock status.json exit.json labels.npz metrics.jsonl artefact.pt",
    "sweep/record.py": "sweep.json",
    "sweep/search.py": "search.json",
    "cluster/arrays.py": "jobs.json",
    "data/prepared/beton.py": "manifest.json",
}
"""module -> the files that it alone names"""
FOLDERS = {"run/folder.py": "checkpoints tb figures slurm"}


def named_files(nodes: list[ast.AST]) -> set[str]:
    """The modules whose paths the code spells; words to a reader do not count."""
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    paths = [text.rpartition("/")[2] for text in texts if " " not in text]
    joined = [child for node in nodes if isinstance(node, ast.BinOp) for child in (node.left, node.right)]
    parts = [child.value for child in joined if isinstance(child, ast.Constant)]
    files = {owner for owner, names in FILES.items() if {*names.split()} & {*paths}}
    return files | {owner for owner, names in FOLDERS.items() if {*names.split()} & {*parts}}


def test_each_file_that_is_left_on_the_disk_is_named_in_one_module():
    named = {str(path.relative_to(ROOT)): named_files(tree(path)) for path in product()}
    assert {path: found for path, found in named.items() if found} == {f"dist_rmd/{own}": {own} for own in FILES}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path = folder / stage / 'artefact.pt'", {"run/folder.py"}),
        ("path = f'{folder}/exit.json'", {"run/folder.py"}),
        ("path = folder / 'checkpoints'", {"run/folder.py"}),
        ("path = folder / 'sweep.json'", {"sweep/record.py"}),
        ("board.add_figure('figures', picture)", set()),
        ("print(f'{folder}: all of them are in exit.json')", set()),
        ("path = folder.exit", set()),
    ],
)
def test_a_planted_name_of_a_file_is_found(code, found):
    assert named_files(list(ast.walk(ast.parse(code)))) == found


EXIT_CODES = {65, 70, 73, 74, 75}


def operands(node: ast.AST) -> list[ast.AST | None]:
    """What an exit code is where the code does something with it: what is returned, compared, passed on, looked up."""
    if isinstance(node, ast.Return):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        return [*sides, *(item for side in sides for item in ast.iter_child_nodes(side))]
    if isinstance(node, ast.Call):
        return [*node.args, *(keyword.value for keyword in node.keywords)]
    return [*node.keys] if isinstance(node, ast.Dict) else []


def has_a_bare_exit_code(nodes: list[ast.AST]) -> bool:
    """The code does something with the number of an error that dist_rmd/errors.py names."""
    numbers = [operand.value for node in nodes for operand in operands(node) if isinstance(operand, ast.Constant)]
    return any(type(number) is int and number in EXIT_CODES for number in numbers)


def test_exit_codes_are_named_in_one_module():
    assert [path for path in ours() if has_a_bare_exit_code(tree(path))] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f():\n    return 75", True),
        ("if code in (0, 75): pass", True),
        ("if ended['code'] == 70: pass", True),
        ("sys.exit(65)", True),
        ("words = {0: 'done', 75: 'stopped'}", True),
        ("code = content.get('code', 75)", True),
        ("code = Stopped.code", False),
        ("milestones = (70, 75)", False),
        ("def f():\n    return 0.75", False),
    ],
)
def test_a_planted_exit_code_is_found(code, found):
    assert has_a_bare_exit_code(list(ast.walk(ast.parse(code)))) is found


def can_run_code(nodes: list[ast.AST]) -> bool:
    """The code may unpickle what it reads: torch.load or np.load without its guard, or a pickle module."""
    guards = {"torch": ("weights_only", True), "np": ("allow_pickle", False), "numpy": ("allow_pickle", False)}
    for node in nodes:
        if isinstance(node, ast.Import) and UNPICKLERS & {alias.name.split(".")[0] for alias in node.names}:
            return True
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            if module in UNPICKLERS or (module in guards and "load" in {alias.name for alias in node.names}):
                return True
        if isinstance(node, ast.Attribute) and node.attr == "load" and getattr(node.value, "id", "") in guards:
            guard, value = guards[node.value.id]
            call = next((n for n in nodes if isinstance(n, ast.Call) and n.func is node), None)
            given = {k.arg: getattr(k.value, "value", None) for k in call.keywords} if call else {}
            if given.get(guard) is not value:
                return True
    return False


def test_nothing_that_is_read_can_run_code():
    assert [path for path in product() if can_run_code(tree(path))] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("torch.load(f, map_location='cpu')", True),
        ("torch.load(f, weights_only=False)", True),
        ("torch.load(f, weights_only=flag)", True),
        ("read = torch.load", True),
        ("from torch import load", True),
        ("np.load(f)", True),
        ("import pickle as p", True),
        ("from joblib import load", True),
        ("torch.load(f, weights_only=True)", False),
        ("np.load(f, allow_pickle=False)", False),
        ("yaml.load(f)", False),
    ],
)
def test_a_planted_unpickling_is_found(code, found):
    assert can_run_code(list(ast.walk(ast.parse(code)))) is found
