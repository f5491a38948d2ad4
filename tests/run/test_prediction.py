import numpy as np
import pytest
import torch
from PIL import Image
from support import small

from dist_rmd.data.images.pictures import UnreadableImage
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.distributed.processes import detect
from dist_rmd.errors import DataError
from dist_rmd.pipeline.runner import train
from dist_rmd.run import prediction


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    words = [*small.RECIPE, "stages=[simsiam,classifier]", "data.reader=memory", f"data.path={data}"]
    return train(None, *words, f"out={tmp_path_factory.mktemp('runs')}")


@pytest.fixture(scope="module")
def images(data):
    return open_dataset(data).images("test")


def test_probabilities_are_those_of_the_images_that_evaluation_sees(run, data, images, monkeypatch):
    monkeypatch.setattr(prediction, "BATCH", 100)  # 360 images: three whole batches and a smaller one
    found = run.predict(images)
    dataset = run.dataset()
    loader = run.source(dataset, detect("cpu")).evaluation("test", LabelView.of(dataset.labels("test"), 10))
    net = run.network("classifier", dataset)
    with torch.no_grad():
        expected = torch.cat([net(*batch.views)[0] for batch in loader.epoch(0)]).double().softmax(dim=1)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.names == dataset.classes
    assert found.classes == [dataset.classes[label] for label in expected.argmax(1)]


def test_paths_pictures_and_pixels_are_the_same_image(run, images, tmp_path):
    picture = Image.fromarray(images[0])
    picture.save(tmp_path / "a.png")
    expected = run.predict(images[:1]).probabilities
    assert expected.shape == (1, 10)
    forms = [str(tmp_path / "a.png"), tmp_path / "a.png", picture, images[0], torch.from_numpy(images[0])]
    for form in forms:
        assert np.array_equal(run.predict(form).probabilities, expected)
    np.testing.assert_allclose(run.predict(forms).probabilities, np.repeat(expected, len(forms), axis=0), atol=1e-6)


def test_images_of_other_sizes_are_resized_and_cropped_as_prepare_does(run, images):
    large = Image.fromarray(images[0]).resize((24, 16))
    expected = run.predict(prediction.fit(large, 8)).probabilities
    assert np.array_equal(run.predict(large).probabilities, expected)
    grey = np.asarray(large.convert("L"))
    assert run.predict([large, grey, images[1]]).probabilities.shape == (3, 10)


def test_no_images_are_no_predictions(run):
    found = run.predict([])
    assert (found.classes, found.probabilities.shape) == ([], (0, 10))


def test_wrong_images_and_stages_are_refused(run, tmp_path):
    with pytest.raises(UnreadableImage, match=r"b\.png: unreadable image"):
        run.predict(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"uint8, got float32 of shape \(8, 8, 3\)"):
        run.predict([np.zeros((8, 8, 3), np.float32)])
    with pytest.raises(DataError, match="no classifier in simsiam"):
        run.predict(tmp_path / "b.png", stage="simsiam")
