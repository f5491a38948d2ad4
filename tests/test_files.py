import hashlib

import pytest

from dist_rmd.errors import CannotCreate, WriteFailed
from dist_rmd.files import sha256, write_atomically


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


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="below: cannot be created"):
        write_atomically(tmp_path / "file" / "below", lambda file: None)


def test_sha256_reads_in_pieces(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
