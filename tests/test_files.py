import hashlib
import os
import shutil
import subprocess
import sys

import pytest
from support.disks import make_read_only, tmpfs
from support.torchrun import child_environment

from dist_rmd.errors import CannotCreate, WriteFailed
from dist_rmd.files import check_writable, remove_leftovers, sha256, write_atomically


def test_the_content_arrives_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.bin"
    for content in (b"one", b"two"):
        write_atomically(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected\npos 64")])
def test_a_broken_write_keeps_the_old_content(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(WriteFailed, match=r"a\.bin: cannot be written \(.*(space|unexpected pos).* MB free") as raised:
        write_atomically(path, write)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk(tmp_path):
    with tmpfs(tmp_path / "disk", "1m") as disk:
        path = disk / "a.bin"
        path.write_bytes(b"old")
        with pytest.raises(WriteFailed, match=r"a\.bin: cannot be written \(No space left on device; 0 MB free"):
            write_atomically(path, lambda file: file.write(bytes(2_000_000)))
        assert path.read_bytes() == b"old"
        assert list(disk.iterdir()) == [path]


def test_a_folder_removed_meanwhile(tmp_path):
    path = tmp_path / "gone" / "a.bin"
    with pytest.raises(WriteFailed, match=r"a\.bin: cannot be written \(No such file or directory; \d+ MB free"):
        write_atomically(path, lambda file: shutil.rmtree(path.parent))


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="below: cannot be created") as caught:
        write_atomically(tmp_path / "file" / "below", lambda file: None)
    assert caught.value.code == 73


def test_a_read_only_disk(tmp_path):
    with tmpfs(tmp_path / "disk", "1m") as disk:
        make_read_only(disk)
        for path in (disk / "a.bin", disk / "new" / "a.bin"):
            with pytest.raises(CannotCreate, match=r"a\.bin: cannot be created \(Read-only file system\)"):
                write_atomically(path, lambda file: None)


def test_where_files_could_be_made_is_known_without_making_any(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    check_writable(tmp_path / "new" / "folder")
    for place, reason in {"file": "Not a directory", "link/new": "a link to a place that is not there"}.items():
        with pytest.raises(CannotCreate, match=f"{place}: cannot be written .*{reason}"):
            check_writable(tmp_path / place)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_a_folder_of_another_user_is_not_writable(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o755)
    script = "from pathlib import Path; from dist_rmd.files import check_writable; check_writable(Path('theirs'))"
    caps = "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"
    command = ["setpriv", "--reuid", "12345", "--clear-groups", *caps, sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True)
    assert "theirs: cannot be written" in done.stderr
    assert "Permission denied" in done.stderr


def test_the_file_that_broke_is_named_and_not_the_one_it_was_for(tmp_path):
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    with tmpfs(tmp_path / "scratch", "64k") as scratch:

        def write(file):
            shutil.copyfile(tmp_path / "large", scratch / "part")

        with pytest.raises(WriteFailed, match=r"scratch.*part: cannot be written \(No space left.*; 0 MB free"):
            write_atomically(tmp_path / "whole", write)


def test_leftovers_of_the_dead_are_removed_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stay = {f".a.bin.{os.getppid()}.tmp", "a.bin", f"a.{dead.pid}.tmp", ".notes.tmp"}
    for name in {f".a.bin.{dead.pid}.tmp", f".b.{os.getpid()}.tmp", f".c.{10**30}.tmp"} | stay:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == stay


def test_sha256_reads_in_pieces(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
