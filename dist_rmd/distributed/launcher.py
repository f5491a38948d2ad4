"""What starts the ranks of a run: torchrun's command line, and the process that has started this one.

Imports nothing that takes long: LAUNCHER is worth something only if it is noted before a command imports torch.
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
    """torchrun's options for so many ranks of this machine alone, whose name need not mean anything to itself."""
    return ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]


def torchrun_command(words: Sequence[str], *options: str) -> list[str]:
    """The words behind `torchrun` that run `python -m dist_rmd.train WORDS` on ranks that can stop.

    `options` are torchrun's own, such as --nproc-per-node=8.
    """
    return [*options, SIGNALS_OPTION, "-m", "dist_rmd.train", *words]
