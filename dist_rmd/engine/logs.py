"""The log of each rank, <run folder>/logs/rank<N>.log: output, warnings and tracebacks."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from dist_rmd.errors import CannotCreate
from dist_rmd.run.folder import RunFolder

logger = logging.getLogger("dist_rmd")


@contextlib.contextmanager
def rank_log(folder: RunFolder, rank: int) -> Iterator[None]:
    """Append what is logged and warned meanwhile to this rank's file."""
    path = folder.log(rank)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
    except OSError as error:
        raise CannotCreate(f"{path}: cannot be created ({error.strerror})") from None
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk is told by what matters more
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s rank {rank}: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    show = warnings.showwarning

    def show_and_log(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        show(message, category, *where, **more)
        logger.warning("%s: %s", category.__name__, message)

    warnings.showwarning = show_and_log  # logging.captureWarnings would take them from the terminal
    try:
        yield
    finally:
        warnings.showwarning = show
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
