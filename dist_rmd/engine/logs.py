"""<run folder>/logs/rank<N>.log: what each rank said, warned of and died of."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from dist_rmd.errors import CannotCreate

logger = logging.getLogger("dist_rmd")


@contextlib.contextmanager
def rank_log(folder: Path, rank: int) -> Iterator[None]:
    """Append what is logged and warned meanwhile to this rank's file."""
    path = folder / "logs" / f"rank{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
    except OSError as error:
        raise CannotCreate(f"{path}: cannot be created ({error.strerror})") from None
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s rank {rank}: %(message)s"))
    loggers = (logger, logging.getLogger("py.warnings"))
    for source in loggers:
        source.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for source in loggers:
            source.removeHandler(handler)
        handler.close()
