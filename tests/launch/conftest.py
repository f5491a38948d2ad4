"""What the tests of launchers share: a home folder without defaults, data, and one SLURM cluster for all of them."""

import getpass
import os
import subprocess

import pytest
from support import small
from support.slurm_jobs import launched
from support.torchrun import ROOT

from dist_rmd.cluster.options import SITE

TOOL = str(ROOT / "tools/slurm")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder without a site's defaults."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / SITE).parent.mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A SLURM cluster for these tests alone, in the environment of all they start."""
    env = os.environ | {"SLURM_FOLDER": str(tmp_path_factory.getbasetemp() / "cluster")}
    try:  # it may have to install SLURM
        up = subprocess.run([TOOL, "up"], capture_output=True, text=True, env=env, timeout=400)
    except subprocess.TimeoutExpired as error:
        pytest.skip(str(error))
    if up.returncode:
        pytest.skip(" / ".join(up.stderr.strip().splitlines()[-3:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{env['SLURM_FOLDER']}/slurm.conf")
        patch.setenv("MASTER_ADDR", "127.0.0.1")  # the nodes' names mean nothing to others
        patch.setenv("OMP_NUM_THREADS", "1")  # as many in all runs: sums of other parts round differently
        yield
        subprocess.run([TOOL, "down"], check=True, env=env, timeout=60)


@pytest.fixture(autouse=True)
def no_jobs_left(request, tmp_path_factory):
    """A test that fails leaves no job to those after it."""
    yield
    conf = tmp_path_factory.getbasetemp() / "cluster" / "slurm.conf"
    if "cluster" in request.fixturenames and conf.exists():
        command = ["scancel", "--user", getpass.getuser()]
        subprocess.run(command, check=True, env=os.environ | {"SLURM_CONF": str(conf)}, timeout=60)


@pytest.fixture(scope="session")
def undisturbed(cluster, data, tmp_path_factory):
    """The folder of a run on two nodes that nothing happened to, and what its job said when it was followed."""
    out = tmp_path_factory.mktemp("undisturbed")
    return out / "run", launched(data, out, "--follow").splitlines()
