"""Files are either whole or absent."""

import hashlib
import os

import pytest

from dist_rmd.errors import CannotCreate, WriteFailed
from dist_rmd.files import sha256, write_atomically


def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def broken(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteFailed, match=r"a\.txt.*No space left.*MB free"):
        write_atomically(path, broken)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotCreate, match="file"):
        write_atomically(tmp_path / "file" / "a", lambda file: file.write(b"new"))


def test_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_rename_happens_after_the_content_is_synced(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    assert calls == ["fsync", "replace", "fsync"]
