import os
import pty
import subprocess
import sys

import pytest

from dist_rmd.cli import progress


def test_plain_lines_where_there_is_no_terminal(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track(range(7), "train", 7)) == list(range(7))
    assert list(progress.track(range(4), "predict", 14, each=4)) == list(range(4))
    assert capsys.readouterr().err.splitlines() == [
        "train: 3 of 7 images, 0 images/s",
        "train: 6 of 7 images, 0 images/s",
        "predict: 12 of 14 images, 1 images/s",
    ]


@pytest.mark.parametrize("arguments", ["range(60), 'train', 60", "range(60), 'train', 596, each=10"])
def test_a_bar_on_a_terminal(arguments):
    """A real terminal, 80 columns wide, watches 60 items go by."""
    script = f"from dist_rmd.cli.progress import track; print(sum(track({arguments})))"
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    result = subprocess.run(
        [sys.executable, "-c", script], stderr=slave, stdout=subprocess.PIPE, env=environment, check=True, timeout=60
    )
    shown = os.read(master, 100_000).decode()
    os.close(slave)
    os.close(master)
    assert result.stdout.strip() == b"1770"
    assert "train" in shown
    assert "596/596" in shown if "596" in arguments else "60/60" in shown
