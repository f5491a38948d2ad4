"""The tests that the step names are there: those that have moved would be left out."""

import pytest
from support import forked
from support.torchrun import ROOT

from tools.replicate_parts.steps.checks import CHOSEN, FILES


def test_the_files_are_there():
    assert [file for file in FILES if not (ROOT / file).exists()] == []


@pytest.mark.parametrize(
    ("device", "least"),
    [("cpu", {"pixels_numba", "views_triton", "overlapped", "relation", "sync_batchnorm", "base"}),
     ("cuda", {"views_triton", "loader", "overlapped", "relation", "sync_batchnorm", "base", "compilation"})],
)  # fmt: skip
def test_something_of_each_is_chosen(device, least):
    options = ("--collect-only", "-q", "-o", "addopts=", "--import-mode=importlib")
    done = forked.command("pytest", *options, *CHOSEN[device], *FILES)
    files = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert {file.rpartition("/test_")[2].removesuffix(".py") for file in files} == least
