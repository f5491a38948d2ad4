from pathlib import Path

from dist_rmd.cluster.submission import filesystem


def test_file_systems_are_those_of_the_mounts(tmp_path):
    assert filesystem(Path("/proc/self")) == "proc"
    assert filesystem(tmp_path / "not" / "yet") == filesystem(tmp_path) != ""
