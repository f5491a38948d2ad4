from pathlib import Path

import pytest

from dist_rmd.config.shipped import FOLDER, find
from dist_rmd.errors import ConfigError


@pytest.mark.parametrize("name", ["rmdnet/digits", "rmdnet/digits.yaml", Path("rmdnet/digits")])
def test_a_shipped_file_is_found_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find(name) == FOLDER / "rmdnet" / "digits.yaml"
    assert find("modul/exclude-cifar10", ".txt").read_text()


def test_a_file_of_the_users_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Path("rmdnet/digits.yaml")
    own.parent.mkdir()
    own.write_text("")
    assert find("rmdnet/digits.yaml") == own


def test_a_wrong_name_is_told_the_nearest_one_and_what_is_shipped(tmp_path):
    with pytest.raises(ConfigError, match=r"rmdnet/digit: no such file.*did you mean rmdnet/digits\?.*modul/cifar10, "):
        find("rmdnet/digit")
    with pytest.raises(ConfigError, match=r"exclude-cifar.txt: .*Shipped are modul/exclude-cifar10, "):
        find(tmp_path / "exclude-cifar.txt", ".txt")
