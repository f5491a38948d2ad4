"""One program for all commands, also as a wheel installs it."""

import os
import shutil
import subprocess
import sys
import venv

import pytest
from support import forked
from support.small import RECIPE
from support.torchrun import ROOT, child_environment

import dist_rmd
from dist_rmd.__main__ import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_under_its_name(name):
    done = forked.command("dist_rmd", name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: dist-rmd {name} ")


def test_help_and_version_import_none_of_the_commands(capsys):
    script = "import sys; from dist_rmd.__main__ import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    for option, said in {"--help": "usage: dist-rmd COMMAND", "--version": f"dist-rmd {dist_rmd.__version__}"}.items():
        command = [sys.executable, "-c", script, option]
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith(said)
        assert done.stdout.endswith("\nFalse\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "there is no command 'trian': did you mean train?"),
        (["xyz"], "there is no command 'xyz': choose from prepare, train, "),
        ([], "name a command: prepare, train, "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_nearest_command(capsys, words, line):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


def test_the_exit_code_is_the_commands():
    command = [sys.executable, "-m", "dist_rmd", "train", "rmdnet/digit"]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "did you mean rmdnet/digits?" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_wheel_works_in_another_environment_and_any_folder(tmp_path):
    source, place, work = (tmp_path / name for name in ("source", "venv", "work"))
    shutil.copytree(ROOT / "dist_rmd", source / "dist_rmd", ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    shutil.copytree(ROOT / "configs", source / "configs")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("dist_rmd-*.whl")
    venv.create(place, with_pip=False)
    subprocess.run([*pip, "--python", place / "bin/python", "install", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = place.glob("lib/python3*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    work.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def dist_rmd_(*words):
        command = [place / "bin/dist-rmd", *words]
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    assert dist_rmd_("--version") == (0, f"dist-rmd {dist_rmd.__version__}\n")
    code, said = dist_rmd_("prepare", "digits", "data/digits")
    assert code == 0, said
    code, said = dist_rmd_("train", "rmdnet/digits", *RECIPE, "name=run")
    assert code == 0, said
    assert (work / "runs/run/exit.json").exists()
    code, said = dist_rmd_("report", "runs/run")
    assert code == 0, said
    assert "CE+RMDNet" in said
    only = ("--dry-run", "--only", "method=CE", "data.path=data/digits")
    code, said = dist_rmd_("sweep", "rmdnet/cpu-grid", *RECIPE, *only)
    assert code == 0, said
    where = [place / "bin/python", "-c", "import dist_rmd; print(dist_rmd.__file__)"]
    assert str(place) in subprocess.run(where, cwd=work, env=env, capture_output=True, text=True, check=True).stdout
