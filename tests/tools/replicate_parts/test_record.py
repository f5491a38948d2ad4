import json
from pathlib import Path

import pytest

from dist_rmd.errors import ConfigError
from tools.bench_parts.tables import Row, Table
from tools.replicate_parts.record import Entry, Record, places, read


@pytest.fixture
def record(tmp_path):
    standing = {str(tmp_path / "work"): "WORK", str(tmp_path): "OUT"}
    entries = {name: Entry(name, name.title()) for name in ("first", "second")}
    call = {
        "command": "tools/replicate",
        "began": "today",
        "minutes": 1,
        "seconds": 61.0,
        "versions": "torch 2",
        "images": "few",
    }
    return Record(tmp_path, "cpu", "few", standing, "a CPU", entries, [call])


def test_what_is_written_is_read_again(record, tmp_path):
    entry = record.entries["first"]
    entry.status, entry.began, entry.parts = "done", "today", ["a part"]
    entry.show([Table("Speed", "", [Row("ours", [0.5], images=64)]), Table("Other", "", [])])
    entry.show([Table("Speed", "", [Row("ours", [0.25], images=64)])])
    record.write()
    entries, calls = read(tmp_path, "cpu")
    assert entries["first"] == entry
    assert [(table.title, [row.seconds for row in table.rows]) for table in entries["first"].shown] == [
        ("Speed", [[0.25]]),
        ("Other", []),
    ]
    assert calls == record.calls
    assert {path.name for path in tmp_path.iterdir()} == {"replicate.json", "replicate.md"}


def test_the_page_says_what_was_done_and_what_was_not(record, tmp_path):
    done, skipped = record.entries.values()
    done.status, done.began, done.commit, done.commands = "done", "today", "abc", ["python -m one", "python -m two"]
    done.show([Table("Speed", "Of a step.", [Row("ours", [0.5], images=64)])])
    skipped.status, skipped.why = "skipped", "needs about 60 s, 5 s were left"
    record.write()
    page = (tmp_path / "replicate.md").read_text()
    assert page.startswith("# tools/replicate, 1 minutes on a CPU\n")
    for said in (
        "    python -m one\n    python -m two\n",
        "today, commit abc",
        "| ours | 500 (500..500) |",
        "### Speed",
    ):
        assert said in page
    assert "skipped: needs about 60 s, 5 s were left" in page
    assert "## Second" not in page
    assert "Goals" not in page  # which are a GPU's


def test_no_folder_of_this_machine_is_told(record, tmp_path):
    entry = record.entries["first"]
    entry.began, entry.commands = "today", [f"python -m x out={tmp_path / 'work' / 'runs'}"]
    entry.error = f"File {tmp_path / 'a.py'}"
    record.write()
    for name in ("replicate.json", "replicate.md"):
        assert str(tmp_path) not in (tmp_path / name).read_text()
    assert "out=WORK/runs" in (tmp_path / "replicate.md").read_text()


def test_places_are_told_by_their_names(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    found = places(tmp_path / "project", work=tmp_path / "link" / "w", data=None)
    assert found[str(tmp_path / "link" / "w")] == found[str(tmp_path / "w")] == "WORK"
    assert found[str(tmp_path / "project")] == "."
    assert found[str(Path.home())] == "~"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "not written by this version"),
        (json.dumps({"format": 1, "device": "cuda", "steps": [], "calls": []}), "holds results of --device cuda"),
    ],
)
def test_another_folder_is_asked_for_where_this_one_is_not_its_own(tmp_path, content, said):
    (tmp_path / "replicate.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, "cpu")
