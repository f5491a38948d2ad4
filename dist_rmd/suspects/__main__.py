"""`dist-rmd suspects RUN...`, short for `dist-rmd report suspects RUN...`."""

import functools
import sys

from dist_rmd import report
from dist_rmd.cli import terminal

if __name__ == "__main__":
    sys.exit(terminal.run(functools.partial(report.main, ["suspects", *sys.argv[1:]], "dist-rmd suspects")))
