"""dist_rmd: distributed training of image classifiers on wrongly labelled data (RMDNet, MODUL)."""

import sys

from dist_rmd import terminal

__version__ = "0.2.0"

if sys.argv[:1] == ["-m"]:  # python -m dist_rmd.<command>, whose own imports come next
    terminal.begin()
