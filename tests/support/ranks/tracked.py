"""The train command, with the trackers of support.trackers.  Arguments: those of the command."""

import sys

from dist_rmd.pipeline.command import main
from support import trackers

with trackers.known():
    sys.exit(main(sys.argv[1:]))
