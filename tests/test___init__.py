"""What `import dist_rmd` offers: quick to import, documented, and every example runs."""

import ast
import doctest
import inspect
import subprocess
import sys

import pytest
from support import small
from support.torchrun import ROOT, child_environment

import dist_rmd


def test_the_import_is_free_of_torch_until_a_name_is_used():
    script = """
import sys
import dist_rmd
dir(dist_rmd), dist_rmd.__version__, dist_rmd.errors.ConfigError
print(*{"torch", "numpy", "yaml", "rich"} & set(sys.modules))
dist_rmd.RelationLoss
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("\nTrue\n", "")


def test_all_names_are_sorted_documented_and_there():
    assert dist_rmd.__all__ == sorted(dist_rmd.__all__)
    for name in dist_rmd.__all__:
        assert name in dir(dist_rmd)
        assert inspect.getdoc(getattr(dist_rmd, name))
    with pytest.raises(AttributeError, match="'dist_rmd' has no attribute 'corupt'"):
        dist_rmd.corupt  # noqa: B018


def test_what_type_checkers_see_is_what_there_is():
    """The imports under TYPE_CHECKING, which they read, name the modules that __getattr__ imports from."""
    tree = ast.parse((ROOT / "dist_rmd" / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    homes = {alias.name: node.module.removeprefix("dist_rmd.") for node in imports for alias in node.names}
    seen = {name: home for name, home in homes.items() if name in dist_rmd.__all__ and name != "errors"}
    assert seen == dist_rmd._HOMES
    assert {*seen, "errors"} == {*dist_rmd.__all__}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With digits that are prepared, and a run, as the examples have them."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "data").mkdir()
    data = small.prepare(folder / "data")
    dist_rmd.train(None, *small.RECIPE, "stages=[classifier]", f"data.path={data}", f"out={folder}/runs", "name=digits")
    return folder


@pytest.mark.parametrize("name", [name for name in dist_rmd.__all__ if name != "errors"])
def test_the_example_of_each_name_runs(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = getattr(dist_rmd, name)
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(found), {}, name, None, 0)
    assert examples.examples, f"{name} has no example"
    said: list[str] = []
    assert doctest.DocTestRunner().run(examples, out=said.append).failed == 0, "".join(said)
