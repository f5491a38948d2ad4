import json

import pytest
from support import small

from dist_rmd import run_folder, sections
from dist_rmd.errors import ConfigError


def configured(tmp_path, *overrides):
    return sections.parse(None, [f"out={tmp_path}", "name=a", *overrides])


@pytest.fixture
def folder(tmp_path):
    """Of a run that was started once, with the defaults."""
    run_folder.describe(tmp_path / "a", configured(tmp_path), world=1, device="cpu")
    return tmp_path / "a"


def ended(folder):
    return json.loads((folder / "exit.json").read_text())


def test_description_and_outcome(tmp_path):
    config = configured(tmp_path, "task.lr=0.5")
    run_folder.outcome(tmp_path / "a", 75, "an earlier end", rank=0)
    run_folder.describe(tmp_path / "a", config, world=2, device="cpu")
    assert sections.parse(tmp_path / "a" / "config.yaml") == config
    environment = json.loads((tmp_path / "a" / "env.json").read_text())
    assert environment["world"] == 2
    assert not (tmp_path / "a" / "exit.json").exists()
    run_folder.outcome(tmp_path / "a", 65, "bad data", rank=1, stage="rgrl", step=7)
    found = ended(tmp_path / "a")
    assert found.pop("ended")
    assert found == {"status": "failed", "code": 65, "reason": "bad data", "rank": 1, "stage": "rgrl", "step": 7}


@pytest.mark.parametrize(("code", "status"), [(0, "done"), (75, "stopped"), (1, "failed"), (70, "failed")])
def test_the_status_says_whether_to_start_again(tmp_path, code, status):
    run_folder.outcome(tmp_path, code, "", rank=0)
    assert ended(tmp_path)["status"] == status


def test_the_first_failure_is_the_cause(tmp_path):
    run_folder.outcome(tmp_path, 1, "KeyError('a bug')", rank=1)
    run_folder.outcome(tmp_path, 1, "rank 1 of 2 does not answer", rank=0)
    assert (ended(tmp_path)["reason"], ended(tmp_path)["rank"]) == ("KeyError('a bug')", 1)


def test_a_folder_that_cannot_be_written_does_not_hide_the_error_that_is_reported(tmp_path):
    (tmp_path / "a").write_text("a file in the way")
    run_folder.outcome(tmp_path / "a", 73, "cannot create", rank=0)


def test_another_configuration_is_refused_by_what_differs(folder, tmp_path):
    changed = configured(tmp_path, "task.lr=0.5", "log.every=1")
    with pytest.raises(ConfigError, match=r"task\.lr: 0\.001 -> 0\.5.*--force") as caught:
        run_folder.changes(folder, changed, force=False)
    assert "log.every" not in str(caught.value), "it may change"
    assert run_folder.changes(folder, changed, force=True) == ["log.every: 50 -> 1", "task.lr: 0.001 -> 0.5"]


@pytest.mark.parametrize(
    "change", ["model.width=16", "teacher.model=vgg16", "teacher.width=16", "simsiam.proj_out=16", "modul.embedding=16"]
)
def test_another_network_is_refused_even_by_force(folder, tmp_path, change):
    with pytest.raises(ConfigError, match=rf"another network \({change.partition('=')[0]}: "):
        run_folder.changes(folder, configured(tmp_path, change), force=True)


def test_what_does_not_change_the_result_may_change_and_is_shown(folder, tmp_path):
    assert run_folder.changes(folder, configured(tmp_path), force=False) == []
    overrides = [
        "checkpoint.keep=5", "checkpoint.minutes=1", "data.reader=memory", "data.workers=1", "stages=[simsiam]",
        "dist.timeout=60", "dist.static_graph=true", "speed.compile=true", "device=cpu", "data.path=elsewhere",
    ]  # fmt: skip
    changes = run_folder.changes(folder, configured(tmp_path, *overrides), force=False)
    assert len(changes) == len(overrides)
    assert "checkpoint.keep: 2 -> 5" in changes


@pytest.mark.parametrize(
    "override", ["seed=1", "dist.sync_batchnorm=false", "dist.compress=bf16", "data.per_class=5", "noise.rate=0.1"]
)
def test_what_changes_the_result_does_not_pass_for_harmless(folder, tmp_path, override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        run_folder.changes(folder, configured(tmp_path, override), force=False)


def test_a_new_folder_takes_any_configuration(tmp_path):
    assert run_folder.changes(tmp_path / "new", configured(tmp_path, "task.lr=0.5"), force=False) == []


def test_finished_means_all_of_these_stages_and_still_there(tmp_path):
    keys = {"simsiam": "0a", "rgrl": "1b"}
    assert not run_folder.finished(tmp_path, keys)
    for stage, key in keys.items():
        small.artefact(tmp_path / stage / "artefact.pt", key)
    assert not run_folder.finished(tmp_path, keys), "without exit.json"
    run_folder.outcome(tmp_path, 0, "done", rank=0, keys=keys)
    assert run_folder.finished(tmp_path, keys)
    assert run_folder.finished(tmp_path, {"simsiam": "0a"})
    assert not run_folder.finished(tmp_path, keys | {"rgrl": "2c"}), "another configuration"
    assert not run_folder.finished(tmp_path, keys | {"classifier": "3d"}), "one stage more"
    (tmp_path / "rgrl" / "artefact.pt").write_bytes(b"cut")
    assert not run_folder.finished(tmp_path, keys)
    (tmp_path / "rgrl" / "artefact.pt").unlink()
    assert not run_folder.finished(tmp_path, keys)


@pytest.mark.parametrize("content", ['{"code": 0}', '{"code": 75, "status": "stopped"}', '{"code"', ""])
def test_an_outcome_of_another_kind_is_not_a_finished_run(tmp_path, content):
    (tmp_path / "exit.json").write_text(content)
    assert not run_folder.finished(tmp_path, {"rgrl": "0a"})
