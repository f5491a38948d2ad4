"""The site's file is tested with the commands that read it, in tests/launch."""

import pytest

from dist_rmd.cluster.options import JobParser


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [("gpu:a100:4", 4), ("gpu:2", 2), ("gpu", 1), ("gpu:a100", 1), ("nvme:3,gpu:a100:4(S:0-1)", 4), ("nvme:3", None)],
)
def test_the_gpus_of_a_gres(gres, gpus, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = JobParser()
    parser.add_job_options()
    assert parser.parse(["--sbatch", f"gres={gres}"]).gpus == gpus


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("90:30", 91), ("1:30:00", 90), ("1-12", 2160), ("1-12:30", 2190), ("1-12:30:15", 2191)],
)
def test_times_as_slurm_reads_them(time, minutes, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # without a site's defaults
    parser = JobParser()
    parser.add_job_options()
    assert parser.parse(["--time", time]).time == minutes
