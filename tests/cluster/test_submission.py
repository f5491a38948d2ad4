import argparse
from pathlib import Path

from dist_rmd.cluster.options import JobParser
from dist_rmd.cluster.submission import executor, filesystem, script


def test_file_systems_are_those_of_the_mounts(tmp_path):
    assert filesystem(Path("/proc/self")) == "proc"
    assert filesystem(tmp_path / "not" / "yet") == filesystem(tmp_path) != ""


def test_a_percent_sign_in_a_path_is_no_number_of_a_node(tmp_path):
    parser = JobParser(prog="any")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_job_options()
    options: argparse.Namespace = parser.parse(["--dry-run", "--time", "10"])
    folder = tmp_path / "sym40%noise" / "%j%x"
    text = script(executor(options, folder, "name", nodes=1, tasks_per_node=2))
    patterns = [word for word in text.replace("=", " ").split() if word.endswith("_log.out")]
    assert patterns == [f"{tmp_path}/sym40%%noise/%%j%%x/%j_0_log.out", f"{tmp_path}/sym40%%noise/%%j%%x/%j_%t_log.out"]
    assert f"_submit {folder}" in text
