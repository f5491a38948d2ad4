"""Shows a command's progress through its images: a bar on a terminal, a line every 10 seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
PAUSE = 10.0
"""seconds between two lines"""


def track(items: Iterable[T], description: str, total: int, each: int = 1) -> Iterator[T]:
    """Yield `items` and show the progress: each item stands for `each` of `total` images, the last for the rest."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(description, total=total)
            for item in items:
                yield item
                progress.advance(task, min(each, total - progress.tasks[task].completed))
        return
    began = spoken = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now, done = time.monotonic(), min(count * each, total)
        if now - spoken > PAUSE:
            spoken = now
            rate = done / (now - began)
            print(f"{description}: {done} of {total} images, {rate:.0f} images/s", file=sys.stderr, flush=True)
