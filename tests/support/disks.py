"""Real disks for tests that fill them or take away the right to write."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A new `folder` that is a disk of `size` (2m: 2 MiB) of its own.  Skips the test where mounting is impossible."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a disk of its own here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def make_read_only(disk: Path) -> None:
    """Nothing more can be written to a disk made by `tmpfs`, not even by root."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
