import os
import subprocess
import sys

from dist_rmd.data.prepared.scratch import YOUNG, scratch


def test_it_is_gone_at_the_end_with_what_is_in_it(tmp_path):
    with scratch(tmp_path) as place:
        (place / "deep").mkdir()
        (place / "deep" / "file").touch()
        assert place.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_killed_process_goes_and_that_of_a_live_one_stays(tmp_path):
    script = (
        "import sys; from pathlib import Path; from dist_rmd.data.prepared.scratch import scratch\n"
        "with scratch(Path(sys.argv[1])) as place:\n    print(place, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        theirs = other.stdout.readline().strip()
        with scratch(tmp_path) as place:
            assert {str(path) for path in tmp_path.iterdir()} == {theirs, str(place)}
        other.kill()
    assert [str(path) for path in tmp_path.iterdir()] == [theirs]
    with scratch(tmp_path) as place:
        assert [*tmp_path.iterdir()] == [place]


def test_one_without_a_lock_goes_when_it_is_old(tmp_path):
    for name in ("new", "old"):
        (tmp_path / f".partial-{name}").mkdir()
    os.utime(tmp_path / ".partial-old", (0, 0))
    assert YOUNG > 1
    with scratch(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} >= {".partial-new"}
        assert not (tmp_path / ".partial-old").exists()
