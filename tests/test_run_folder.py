import json

import pytest

from dist_rmd import run_folder, sections
from dist_rmd.errors import ConfigError


def configured(tmp_path, *overrides):
    return sections.parse(None, [f"out={tmp_path}", "name=a", *overrides])


def test_description_and_outcome(tmp_path):
    config = configured(tmp_path, "task.lr=0.5")
    run_folder.outcome(tmp_path / "a", 75, "an earlier end", rank=0)
    run_folder.describe(tmp_path / "a", config, world=2, device="cpu")
    assert sections.parse(tmp_path / "a" / "config.yaml") == config
    environment = json.loads((tmp_path / "a" / "env.json").read_text())
    assert environment["world"] == 2
    assert not (tmp_path / "a" / "exit.json").exists()
    run_folder.outcome(tmp_path / "a", 65, "bad data", rank=1)
    found = json.loads((tmp_path / "a" / "exit.json").read_text())
    assert (found["code"], found["reason"], found["rank"]) == (65, "bad data", 1)


def test_another_configuration_is_refused_by_what_differs(tmp_path):
    run_folder.describe(tmp_path / "a", configured(tmp_path), world=1, device="cpu")
    with pytest.raises(ConfigError, match=r"task\.lr: 0\.001 -> 0\.5") as caught:
        run_folder.refuse_other_run(tmp_path / "a", configured(tmp_path, "task.lr=0.5", "log.every=1"))
    assert "log.every" not in str(caught.value)


def test_what_does_not_change_the_result_may_change(tmp_path):
    run_folder.describe(tmp_path / "a", configured(tmp_path), world=1, device="cpu")
    changed = ["log.every=1", "checkpoint.keep=5", "data.reader=memory", "data.workers=1", "stages=[simsiam]"]
    run_folder.refuse_other_run(tmp_path / "a", configured(tmp_path, *changed))
    run_folder.refuse_other_run(tmp_path / "new", configured(tmp_path, "task.lr=0.5"))


def test_a_folder_that_cannot_be_written_does_not_hide_the_error_that_is_reported(tmp_path):
    (tmp_path / "a").write_text("a file in the way")
    run_folder.outcome(tmp_path / "a", 73, "cannot create", rank=0)
