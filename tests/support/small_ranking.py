"""A few images by falling suspicion, with names that are hard to write down."""

import numpy as np

from dist_rmd.suspects.ranking import Ranking

CLASSES = ("=HYPERLINK(A1)", "cat, tame", "-1", "plain")
FILES = ("@SUM(1).png", "'=x.png", 'a "b", c.png', "train/dog.png", "line\nbreak.png", "byte\udcff.png")


def ranking(files=FILES, classes=CLASSES, **columns):
    """Columns of which every image has other values."""
    count, numbers = len(files), np.arange(len(files))
    return Ranking(
        **{
            "classes": classes,
            "files": files,
            "given": numbers % len(classes),
            "proposed": (numbers + 1) % len(classes),
            "probable": (numbers + 2) % len(classes),
            "sure": numbers % 3 > 0,
            "score": 1 - numbers / count,
            "p_given": numbers / count,
            "neighbours": numbers / count / 2,
            "sets": [("", "clean", "closed", "open")[number % 4] for number in numbers],
            "twins": np.where(numbers < 2, 0, -1),
            **columns,
        }
    )
