"""The train command, for the stages of support.seam.  Arguments: those of the command."""

import sys

from dist_rmd.pipeline.command import main
from support import seam

with seam.known():
    sys.exit(main(sys.argv[1:]))
