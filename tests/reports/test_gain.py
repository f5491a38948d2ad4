import pytest
from support.sweep_folders import SweepFolder

from dist_rmd.errors import DataError
from dist_rmd.reports.gain import gain
from dist_rmd.run import artefacts

AXES = {"method": ["CE", "CE+RMDNet"], "teacher": ["3", "21"]}


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "teachers", AXES, seeds=(0, 1), compare={"CE+RMDNet": "CE"}, title="Digits")


def teach(folder, *values, seed, knn):
    """Give the run a teacher whose neighbours have been measured."""
    run = folder.run(*values, seed=seed)
    scores = [{"epoch": 1, "test/knn_top1": 1.0}, {"epoch": 2, "test/knn_top1": knn}]
    artefacts.save(run / "simsiam" / "artefact.pt", run / "shared-simsiam.pt", {"scores": scores})


def test_gains_stand_beside_the_accuracy_of_the_teachers_neighbours(folder):
    for seed, before, after in ((0, 24.0, 30.0), (1, 26.0, 34.0)):
        folder.finish("CE", "21", seed=seed, curve=[28.0, before])
        folder.finish("CE+RMDNet", "21", seed=seed, curve=[after])
        teach(folder, "CE+RMDNet", "21", seed=seed, knn=48.0 + seed)
    folder.finish("CE", "3", seed=0, curve=[25.0])
    folder.finish("CE+RMDNet", "3", seed=0, curve=[24.0])
    teach(folder, "CE+RMDNet", "3", seed=0, knn=36.25)
    head, _, *rows, _, path = gain([folder.folder]).splitlines()
    found = [[text.strip() for text in row.strip("|").split("|")] for row in rows]
    assert found[0] == ["Digits", "CE+RMDNet, teacher 3", "36.25", "25.00", "25.00", "24.00", "-1.00", "1"]
    assert found[1][:3] == ["Digits", "CE+RMDNet, teacher 21", "48.50"]
    assert found[1][3:] == ["28.00 ± 0.00", "25.00 ± 1.41", "32.00 ± 2.83", "+7.00 ± 1.41", "2"]
    assert "kNN of the teacher" in head
    assert (folder.folder / "figures" / "gain.png").read_bytes().startswith(b"\x89PNG")
    assert path == str(folder.folder / "figures" / "gain.png")


def test_without_a_teacher_or_a_baseline_there_is_nothing_to_show(folder):
    folder.finish("CE+RMDNet", "3", seed=0, curve=[24.0])
    folder.finish("CE", "21", seed=0, curve=[25.0])
    folder.finish("CE+RMDNet", "21", seed=0, curve=[26.0])
    with pytest.raises(DataError, match=r"teachers: no cell here has finished beside its baseline"):
        gain([folder.folder])
