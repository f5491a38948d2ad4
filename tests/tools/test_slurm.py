"""tools/slurm where it cannot start: it says why and touches nothing.  Where it can: tests/launch/test_slurm.py."""

import os
import subprocess

from support.torchrun import ROOT


def slurm(word, folder):
    """Exit code and output of `tools/slurm WORD` with this folder for the cluster."""
    env = os.environ | {"SLURM_FOLDER": str(folder)}
    done = subprocess.run(["/bin/bash", str(ROOT / "tools/slurm"), word], capture_output=True, text=True, env=env)
    return done.returncode, done.stdout + done.stderr


def test_another_clusters_folder_is_left_alone(tmp_path):
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=site\n")
    assert slurm("status", tmp_path) == (1, "slurm: not running (tools/slurm up starts it)\n")
    assert slurm("down", tmp_path)[0] == 0
    assert conf.read_text() == "ClusterName=site\n"


def test_without_slurm_and_apt_get_it_says_what_is_missing(tmp_path):
    for name in ("dirname", "rm"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    tool = (ROOT / "tools/slurm").read_text().replace("PATH=$PATH:/usr/sbin:/sbin", "")  # where they may be installed
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/slurm").write_text(tool)
    done = subprocess.run(
        ["/bin/bash", str(tmp_path / "tools/slurm"), "up"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path), "SLURM_FOLDER": str(tmp_path / "cluster")},
    )
    assert done.returncode == 1
    assert done.stderr == (
        "slurm: slurmctld slurmd sbatch srun munged not found, and no apt-get: install SLURM and munge as your system "
        "does\n"
    )
    assert not (tmp_path / "cluster").exists()


def test_an_unknown_word_is_refused(tmp_path):
    assert slurm("start", tmp_path / "cluster") == (1, "slurm: unknown argument start (--help explains)\n")
