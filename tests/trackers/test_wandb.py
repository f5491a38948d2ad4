"""With the library itself, offline: what stands in the files that it leaves for `wandb sync`."""

import json
import struct

import pytest
from support import small
from support.whole_runs import records, stopped

from dist_rmd.pipeline.command import main

pytest.importorskip("wandb", reason="wandb is not installed: pip install 'dist_rmd[wandb]'")


BLOCK, HEAD = 1 << 15, 7
"""bytes: a file is cut into blocks, as LevelDB's logs are; file and pieces of records have heads of the same length"""


def scan(file):
    """The records in a .wandb file: each in one piece (kind 1), or in several up to the last one (kind 4)."""
    data, at, record = file.read_bytes(), HEAD, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:  # no room for another head
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)  # checksum first
        record += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (1, 4):
            yield record
            record = b""


def read(folder):
    """(the run's id, its name, its configuration, rows of scalars) in one folder of an offline run."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    run, rows = None, []
    for data in scan(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        elif kind == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in items.items() if not name.startswith("_")})
    configuration = {item.key: json.loads(item.value_json) for item in run.config.update}
    return run.run_id, run.display_name, configuration, rows


def test_a_run_offline_has_all_scalars_under_one_id_over_a_stop(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = [f"data.path={small.prepare(tmp_path)}", "data.reader=memory", "stages=[simsiam,classifier]", "name=a"]
    arguments = [*small.RECIPE, *words, f"out={tmp_path}", "log.also=[wandb]"]
    assert stopped(arguments, "classifier", 3) == 75
    assert main(arguments) == 0
    run = tmp_path / "a"
    first, second = sorted((run / "trackers" / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    found = [read(folder) for folder in (first, second)]
    identity = (run / "trackers" / "wandb.id").read_text().strip()
    assert [one[0] for one in found] == [identity, identity]
    assert [one[1] for one in found] == ["a", "a"]
    assert found[0][2]["noise"]["rate"] == 0.4
    assert found[0][3] + found[1][3] == [
        {
            f"{record['stage']}/step": record["step"],
            **{f"{record['stage']}/{tag}": value for tag, value in record.items() if "/" in tag},
        }
        for record in records(run, "simsiam", "classifier")
    ]
