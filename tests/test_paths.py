"""~ is the home folder, whoever expands it."""

from pathlib import Path

import pytest

from dist_rmd.errors import ConfigError
from dist_rmd.paths import user_path


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs") == tmp_path / "runs"
    assert user_path("~") == tmp_path
    assert [user_path(text) for text in ("runs", "/a/~b", "a~")] == [Path("runs"), Path("/a/~b"), Path("a~")]


def test_the_home_of_nobody_is_refused():
    with pytest.raises(ConfigError, match=r"~no-such-user/runs: there is no home .*\./~no-such-user is"):
        user_path("~no-such-user/runs")
