"""What a process of support/forked.py has imported when it starts: torch, and what most commands need.

Modules that are commands themselves, such as dist_rmd.evaluate, are not among them: `python -m` makes each anew.
"""

import gc
import importlib
import pkgutil

import dist_rmd

COMMANDS = {"train", "evaluate", "predict", "prepare", "clean", "report", "slurm", "sweep", "suspects", "export"}

for module in pkgutil.walk_packages(dist_rmd.__path__, "dist_rmd."):
    if not COMMANDS & {*module.name.split(".")} and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
gc.freeze()  # a collection would touch, and so copy, what all these processes share
