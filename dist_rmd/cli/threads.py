"""How the threads of torch's parallel loops wait, which can be chosen before torch is imported only."""

import os


def share_cores() -> None:
    """Let threads sleep while they wait for one another, unless OMP_WAIT_POLICY says otherwise.

    By default OpenMP's threads keep their cores busy for some milliseconds after every loop.  Where another process or
    the threads that make views need a core, what they wait for is then held up by their waiting.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
