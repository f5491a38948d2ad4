#!/usr/bin/env python
"""The same as `dist-rmd slurm`, from a checkout."""

import runpy

runpy.run_module("dist_rmd.slurm", run_name="__main__", alter_sys=True)
