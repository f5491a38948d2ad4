"""dist_rmd: distributed training of image classifiers on wrongly labelled data (RMDNet, MODUL)."""

import os
import sys

from dist_rmd import terminal

LAUNCHER = os.getppid()
"""process id of the parent, noted before the imports of a command, which take seconds in which it may die"""

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # python -m dist_rmd.<command>, whose own imports come next
    terminal.begin()
