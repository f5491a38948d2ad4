"""Every page is found from the index, every link leads somewhere, and every file has its line."""

import re
from pathlib import Path

import pytest
from support.torchrun import ROOT

import dist_rmd

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
INDEX = ROOT / "docs" / "README.md"


def links(page: Path) -> set[Path]:
    """The files of this project that a page links to."""
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", page.read_text())
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    assert [target for target in links(page) if not target.exists()] == []


def test_the_index_has_every_page():
    assert {page for page in PAGES if page != INDEX} - links(INDEX) == set()


def test_the_readme_stays_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 120] == []


def test_the_architecture_has_a_line_for_every_file():
    """And for none that is not there.  An empty file has nothing to say."""
    package = ROOT / "dist_rmd"
    files = [str(path.relative_to(package)) for path in package.rglob("*.py") if path.read_text()]
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert sorted(re.findall(r"^\| `(\S+\.py)` \| \S", page, re.MULTILINE)) == sorted(files)


def test_the_version_has_its_changes_and_its_citation():
    assert f"\n## {dist_rmd.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {dist_rmd.__version__}\n" in (ROOT / "CITATION.cff").read_text()
