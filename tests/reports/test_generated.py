import numpy as np
import pytest
import torch
from PIL import Image
from support import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rmd import report
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.pipeline.command import main
from dist_rmd.reports.generated import draw
from dist_rmd.run.artefacts import load

RECIPE = (
    "dfad.epochs=1", "dfad.rounds=1", "dfad.batch_size=20", "dfad.latent=6", "inversion.epochs=2",
    "inversion.batch_size=20", "inversion.iterations=2", "inversion.student_steps=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    stages = "stages=[teacher,dfad,inversion]"
    data = small.prepare(folder)
    assert main([*small.RECIPE, *RECIPE, stages, f"data.path={data}", "data.reader=memory", f"out={folder}"]) == 0
    return folder / "run"


def test_every_stage_that_makes_images_has_a_picture(run, capsys):
    assert report.main(["generated", str(run)]) == 0
    paths = [run / "figures" / f"generated-{stage}.png" for stage in ("dfad", "inversion")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    for path, rows in zip(paths, (8, 5), strict=True):  # 64 images, 40 images
        assert Image.open(path).size == (8 * 68, rows * 68)
    board = EventAccumulator(str(run / "tb" / "figures"))
    board.Reload()
    assert set(board.Tags()["images"]) == {"figures/generated_dfad", "figures/generated_inversion"}


def test_a_pixel_is_where_and_what_it_should_be():
    images = torch.zeros(9, 3, 32, 32)
    images[8, 1, 3, 5] = 2.0
    artefact = {"generated": images, "side": 32, "mean": [0.5, 0.25, 0.0], "std": [0.25, 0.25, 0.25]}
    picture = draw(artefact)
    assert picture.shape == (2 * 68, 8 * 68, 3)
    assert picture[2, 2].tolist() == [128, 64, 0]
    found = np.argwhere(picture[..., 1] == round(0.75 * 255))
    assert found.tolist() == [[68 + 2 + 2 * 3 + i, 2 + 2 * 5 + j] for i in range(2) for j in range(2)]


def test_all_images_become_a_dataset_that_vkd_learns(run, tmp_path, capsys):
    out = tmp_path / "inverted"
    assert report.main(["generated", str(run), "--dataset", str(out)]) == 0
    assert "40 images; the labels are the classes that were sought" in capsys.readouterr().out
    dataset, made = open_dataset(out), load(run / "inversion" / "artefact.pt")
    assert not dataset.verified
    np.testing.assert_array_equal(dataset.images("train"), made["images"].numpy())
    np.testing.assert_array_equal(dataset.labels("train"), made["labels"].numpy())
    assert dataset.sizes == {"train": 40, "test": 360}
    learned = [
        "stages=[vkd]",
        f"inputs.teacher={run}",
        "vkd.transfer=logits",
        "vkd.alpha=0",
        "noise.rate=0",
        "data.per_class=null",
    ]
    command = [*small.RECIPE, *learned, f"data.path={out}", "data.reader=memory", f"out={tmp_path}", "name=student"]
    assert main(command) == 0


def test_what_cannot_be_shown_is_one_line(run, tmp_path, capsys):
    other = tmp_path / "other"
    command = [*small.RECIPE, "stages=[classifier]", f"data.path={run.parent / 'digits'}", "data.reader=memory"]
    assert main([*command, f"out={tmp_path}", "name=other"]) == 0
    capsys.readouterr()
    assert report.main(["generated", str(other)]) == 65
    assert capsys.readouterr().err == f"error: {other}: none of its finished stages (classifier) makes images\n"
    assert report.main(["generated", str(run), str(other), "--dataset", "x"]) == 2
    assert "one run, but there are 2" in capsys.readouterr().err
