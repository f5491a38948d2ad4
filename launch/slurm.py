#!/usr/bin/env python
"""The same as `dist-rmd slurm`, from a checkout."""

import sys

from dist_rmd.__main__ import main

sys.exit(main(["slurm", *sys.argv[1:]]))
