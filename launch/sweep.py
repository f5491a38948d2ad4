#!/usr/bin/env python
"""The same as `dist-rmd sweep`, from a checkout."""

import runpy

runpy.run_module("dist_rmd.sweep", run_name="__main__", alter_sys=True)
