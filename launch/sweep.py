#!/usr/bin/env python
"""The same as `dist-rmd sweep`, from a checkout."""

import sys

from dist_rmd.__main__ import main

sys.exit(main(["sweep", *sys.argv[1:]]))
