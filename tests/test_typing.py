"""A mistyped key of the configuration is found by mypy, before anything runs."""

import subprocess
import sys

from support.torchrun import ROOT

SNIPPET = """
from dist_rmd.config import sections
from dist_rmd.stages.classifier import Classifier
from dist_rmd.stages.simsiam import SimSiamConfig
config = sections.parse(None)
right = config.section(SimSiamConfig).lr * config.noise.rate
config.section(SimSiamConfig).lrr
config.noise.ratte
config.simsiam
Classifier.scope(config).noise
"""


def test_a_mistyped_key_fails(tmp_path):
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--config-file", "setup.cfg", str(tmp_path / "snippet.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    found = [line.partition("snippet.py:")[2] for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.partition(":")[0] for line in found] == ["7", "8", "9", "10"], done.stdout
    for line, words in zip(found, ('no attribute "lrr"', '"ratte"', '"simsiam"', '"noise"'), strict=True):
        assert words in line
