"""The launcher of a run: torchrun's command line, and the process that started this one.

This module imports nothing slow: LAUNCHER must be noted before a command imports torch, since the parent process may
die during these seconds.
"""

import os
from collections.abc import Sequence

from dist_rmd.engine.signals import SIGNALS

LAUNCHER = os.getppid()
"""process id of the parent at the import of this module; importing torch takes seconds, in which a parent may die"""

SIGNALS_OPTION = f"--signals-to-handle={','.join(number.name for number in SIGNALS)}"
"""of torchrun, which passes these signals on to its ranks; of any other signal it dies, and leaves its ranks"""

SHUTDOWN_TIMEOUT = 110
"""seconds that torchrun gives its ranks, after such a signal, for a step and a checkpoint (before torch 2.12: 30)"""


def on_this_machine(ranks: int) -> list[str]:
    """torchrun's options for `ranks` ranks on this machine alone, even if the machine cannot resolve its own name."""
    return ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]


def torchrun_command(words: Sequence[str], *options: str) -> list[str]:
    """torchrun's arguments that run `python -m dist_rmd.train WORDS` on ranks that receive stop signals.

    `options` are torchrun's own, such as --nproc-per-node=8.
    """
    return [*options, SIGNALS_OPTION, "-m", "dist_rmd.train", *words]
