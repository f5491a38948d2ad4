import pytest
from support import small

from dist_rmd.sweep import grid

CELLS = """
title: Digits
config: base.yaml
set: {simsiam.seed: 0}
axes:
  method:
    CE: {stages: [classifier]}
    CE+RMDNet: {stages: [simsiam, rgrl]}
    CE+RMDNet (K=2): {stages: [simsiam, rgrl], relation.k: 2}
"""


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def cells(tmp_path):
    """A function that writes a small grid and loads it."""

    def cells(text=CELLS, **options):
        (tmp_path / "base.yaml").write_text("name: base\n")
        (tmp_path / "small.yaml").write_text(text)
        return grid.load(tmp_path / "small.yaml", **options)

    return cells


@pytest.fixture
def overrides(tmp_path, digits):
    return (*small.RECIPE, f"data.path={digits}", f"out={tmp_path}")
