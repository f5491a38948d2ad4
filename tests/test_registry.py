import pytest

from dist_rmd.errors import ConfigError
from dist_rmd.losses.gce import GCE
from dist_rmd.registry import available, lookup


def test_a_name_is_a_file_and_its_one_public_object():
    assert lookup("losses", "gce") is GCE
    assert {"ce", "gce"} <= set(available("losses"))
    assert available("losses") == sorted(available("losses"))


def test_base_is_no_choice():
    assert "base" not in available("stages")
    with pytest.raises(ConfigError):
        lookup("stages", "base")


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("losses", "gcee", "did you mean 'gce'?"),
        ("losses", "GCE", "choose from ael, agce, aul, ce, "),
        ("stages", "simsam", "did you mean 'simsiam'?"),
        ("losses", "", "choose from"),
        ("losses", "../stages/rgrl", "choose from"),
        ("losses", "gce.py", "did you mean 'gce'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(kind, name, hint):
    with pytest.raises(ConfigError) as caught:
        lookup(kind, name)
    message = str(caught.value)
    assert message.startswith(f"there is no {name!r} in dist_rmd/{kind}: ")
    assert hint in message
    assert "\n" not in message
    assert caught.value.code == 2


def test_a_module_with_two_public_names_is_no_plug_in(monkeypatch):
    monkeypatch.setattr("dist_rmd.losses.gce.__all__", ["GCE", "Tensor"])
    with pytest.raises(ValueError, match="too many values"):
        lookup("losses", "gce")


def test_a_broken_plug_in_is_a_bug_and_not_an_unknown_name(tmp_path, monkeypatch):
    (tmp_path / "broken_loss.py").write_text("import no_such_library\n")
    monkeypatch.setattr("dist_rmd.losses.__path__", [str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        lookup("losses", "broken_loss")
