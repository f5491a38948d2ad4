import pytest
from support import small

from dist_rmd.config import sections
from dist_rmd.errors import ConfigError
from dist_rmd.run import start
from dist_rmd.run.folder import Exit, RunFolder


def configured(tmp_path, *overrides):
    return sections.parse(None, [f"out={tmp_path}", "name=a", *overrides])


@pytest.fixture
def folder(tmp_path):
    """Of a run that was started once, with the defaults."""
    made = RunFolder(tmp_path / "a")
    start.describe(made, configured(tmp_path), world=1, device="cpu")
    return made


def test_a_start_is_described_and_an_earlier_outcome_goes(tmp_path):
    config = configured(tmp_path, "task.lr=0.5")
    folder = RunFolder.of(config)
    assert folder.path == tmp_path / "a"
    folder.write_exit(Exit(75, "an earlier end"))
    start.describe(folder, config, world=2, device="cpu", resolved={"precision": "fp32"})
    assert sections.parse(folder.config) == config
    environment = folder.read_environment()
    assert (environment["world"], environment["resolved"]) == (2, {"precision": "fp32"})
    assert folder.read_exit() is None


def test_another_configuration_is_refused_by_what_differs(folder, tmp_path):
    changed = configured(tmp_path, "task.lr=0.5", "log.every=1")
    with pytest.raises(ConfigError, match=r"task\.lr: 0\.001 -> 0\.5.*--force") as caught:
        start.changes(folder, changed, force=False)
    assert "log.every" not in str(caught.value), "it may change"
    assert start.changes(folder, changed, force=True) == ["log.every: 50 -> 1", "task.lr: 0.001 -> 0.5"]


@pytest.mark.parametrize(
    "change", ["model.width=16", "teacher.model=vgg16", "teacher.width=16", "simsiam.proj_out=16", "modul.embedding=16"]
)
def test_another_network_is_refused_even_by_force(folder, tmp_path, change):
    with pytest.raises(ConfigError, match=rf"another network \({change.partition('=')[0]}: "):
        start.changes(folder, configured(tmp_path, change), force=True)


def test_what_does_not_change_the_result_may_change_and_is_shown(folder, tmp_path):
    assert start.changes(folder, configured(tmp_path), force=False) == []
    overrides = [
        "checkpoint.keep=5", "checkpoint.minutes=1", "data.reader=memory", "data.workers=1", "stages=[simsiam]",
        "dist.timeout=60", "dist.static_graph=true", "speed.compile=true", "device=cpu", "data.path=elsewhere",
    ]  # fmt: skip
    changes = start.changes(folder, configured(tmp_path, *overrides), force=False)
    assert len(changes) == len(overrides)
    assert "checkpoint.keep: 2 -> 5" in changes


@pytest.mark.parametrize(
    "override", ["seed=1", "dist.sync_batchnorm=false", "dist.compress=bf16", "data.per_class=5", "noise.rate=0.1"]
)
def test_what_changes_the_result_does_not_pass_for_harmless(folder, tmp_path, override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        start.changes(folder, configured(tmp_path, override), force=False)


def test_a_new_folder_takes_any_configuration(tmp_path):
    assert start.changes(RunFolder(tmp_path / "new"), configured(tmp_path, "task.lr=0.5"), force=False) == []


def test_finished_means_all_of_these_stages_and_still_there(tmp_path):
    folder, keys = RunFolder(tmp_path), {"simsiam": "0a", "rgrl": "1b"}
    assert not start.finished(folder, keys, "test")
    for stage, key in keys.items():
        small.artefact(folder.artefact(stage), key)
    assert not start.finished(folder, keys, "test"), "without an outcome"
    folder.write_exit(Exit(0, "done", keys=keys))
    assert start.finished(folder, keys, "test")
    assert start.finished(folder, {"simsiam": "0a"}, "test")
    assert not start.finished(folder, keys | {"rgrl": "2c"}, "test"), "another configuration"
    assert not start.finished(folder, keys | {"classifier": "3d"}, "test"), "one stage more"
    folder.artefact("rgrl").write_bytes(b"cut")
    assert not start.finished(folder, keys, "test")
    folder.artefact("rgrl").unlink()
    assert not start.finished(folder, keys, "test")


@pytest.mark.parametrize("content", ['{"code": 0}', '{"code": 75, "status": "stopped"}', '{"code"', ""])
def test_an_outcome_of_another_kind_is_not_a_finished_run(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.exit.write_text(content)
    assert not start.finished(folder, {"rgrl": "0a"}, "test")
