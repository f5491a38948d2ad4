"""Small stages, each of which needs something of the seam that few stages need (dist_rmd/stages/base.py).

They are plug-ins that lie elsewhere: while `known`, as good as files of dist_rmd/stages.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dist_rmd import stages

STAGES = ("remembering", "averaging", "adversaries", "pair")


@contextlib.contextmanager
def known() -> Iterator[None]:
    """Within it, a run may name these stages."""
    here = str(Path(__file__).parent)
    stages.__path__.append(here)
    try:
        yield
    finally:
        stages.__path__.remove(here)
