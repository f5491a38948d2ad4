"""~ is the home folder, whoever expands it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.torchrun import child_environment

from dist_rmd.cli.paths import user_path
from dist_rmd.errors import ConfigError


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs") == tmp_path / "runs"
    assert user_path("~") == tmp_path
    assert [user_path(text) for text in ("runs", "/a/~b", "a~")] == [Path("runs"), Path("/a/~b"), Path("a~")]


def test_the_home_of_nobody_is_refused():
    with pytest.raises(ConfigError, match=r"~no-such-user/runs: there is no home .*\./~no-such-user is"):
        user_path("~no-such-user/runs")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become a user whom the system does not know")
@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("prepare cifar10 out", 2, "error: this user has no home folder to download to: fetch the archive"),
        ("slurm --dry-run --time 10 device=cpu", 0, ""),
        ("sweep grid.yaml --dry-run", 2, "error: grid.yaml: "),
    ],
)
def test_who_has_neither_home_nor_name_needs_none(tmp_path, words, code, line):
    caps = "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"
    user = ["setpriv", "--reuid", "12345", "--clear-groups", *caps]
    environment = {name: value for name, value in child_environment().items() if name not in ("HOME", "USER")}
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [*user, sys.executable, "-m", "dist_rmd", *words.split()],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1:] == [] or done.stderr.splitlines()[-1].startswith(line)
