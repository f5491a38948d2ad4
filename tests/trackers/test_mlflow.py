"""With the library itself, and a store of files."""

import pytest
from support import small
from support.whole_runs import records, stopped

from dist_rmd.pipeline.command import main

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'dist_rmd[mlflow]'")


@pytest.fixture
def arguments(tmp_path):
    words = [f"data.path={small.prepare(tmp_path)}", "data.reader=memory", "stages=[simsiam,classifier]", "name=a"]
    return [*small.RECIPE, *words, f"out={tmp_path}", "log.also=[mlflow]"]


def test_a_run_has_all_scalars_under_one_id_over_a_stop(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for it
    assert stopped(arguments, "classifier", 3) == 75
    client, run = mlflow.MlflowClient(), tmp_path / "a"
    identity = (run / "trackers" / "mlflow.id").read_text().strip()
    assert client.get_run(identity).info.status == "KILLED"
    assert main([*arguments, "log.console_every=31"]) == 0
    experiment = client.get_experiment_by_name("dist_rmd")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (identity, "a", "FINISHED")
    assert found.data.params["noise.rate"] == "0.4"
    assert found.data.params["stages"] == "['simsiam', 'classifier']"
    written: dict[str, list] = {}
    for record in records(run, "simsiam", "classifier"):
        for tag in (tag for tag in record if "/" in tag):
            written.setdefault(f"{record['stage']}/{tag}", []).append((record["step"], record[tag]))
    assert found.data.metrics.keys() == written.keys()
    for name, points in written.items():
        assert [(point.step, point.value) for point in client.get_metric_history(identity, name)] == points


def test_without_a_server_it_says_what_to_set(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main([*arguments, "stages=[classifier]", "task.epochs=1"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "has no effect" not in line]
    assert line.startswith("warning: log.also: mlflow is left out from now on (ValueError: set MLFLOW_TRACKING_URI ")
