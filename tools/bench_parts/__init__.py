"""The parts of tools/bench: one file for each section that can be chosen, and what they share.

A section's module has `measure(settings)`, which yields tables (tables.py) as they are done.  Shared are timing.py (how
anything is timed), loop.py (the product's training loop, timed), peers.py (what others would write), images.py,
busy.py, ranks.py, settings.py.
"""

from dist_rmd.cli import threads

threads.share_cores()  # as in the commands that are measured, and for all ways alike
