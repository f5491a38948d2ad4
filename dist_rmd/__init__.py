"""dist_rmd: distributed training of image classifiers on wrongly labelled data (RMDNet, MODUL)."""

import os

LAUNCHER = os.getppid()
"""process id of the parent, noted before the imports of a command, which take seconds in which it may die"""

__version__ = "0.1.0"
