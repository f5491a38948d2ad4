import numpy as np
import pytest
import torch
from PIL import Image
from support import small
from support.whole_runs import stopped

from dist_rmd.data.images.pictures import UnreadableImage
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.distributed.processes import detect
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.pipeline.runner import train
from dist_rmd.run import prediction
from dist_rmd.run.finished import load_run


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


def test_features_are_the_encoders_of_the_images_that_evaluation_sees(run, images):
    dataset = run.dataset()
    loader = run.source(dataset, detect("cpu")).evaluation("test", LabelView.of(dataset.labels("test"), 10))
    for stage, last in (("simsiam", {"stage": "simsiam"}), ("classifier", {})):
        encoder = run.network(stage, dataset).encoder
        with torch.no_grad():
            expected = torch.cat([encoder(*batch.views) for batch in loader.epoch(0)])
        np.testing.assert_allclose(run.features(images, **last), expected, atol=1e-5)
    assert run.features([]).shape == (0, 64)
    assert run.classes == dataset.classes


def test_the_newest_checkpoint_of_a_stopped_run_predicts(data, images, tmp_path):
    words = [*small.RECIPE, "stages=[simsiam,classifier]", "data.reader=memory", f"data.path={data}", f"out={tmp_path}"]
    arguments = [*words, "name=a", "checkpoint.minutes=1e-9"]
    assert stopped(arguments, "simsiam", 3) == 75
    stopped_run = load_run(tmp_path / "a")
    assert stopped_run.features(images).shape == (len(images), 64)
    with pytest.raises(DataError, match="no classifier in simsiam"):
        stopped_run.predict(images)
    assert stopped(arguments, "classifier", 6) == 75
    stopped_run = load_run(tmp_path / "a")
    assert stopped_run.saved("classifier").when == "newest checkpoint, epoch 2, step 6"
    assert stopped_run.saved("simsiam").when == "last epoch, 2"
    state = Checkpoints(tmp_path / "a" / "classifier" / "checkpoints", 1).load_newest()
    net = stopped_run.network("classifier")
    assert all(torch.equal(tensor, state["net"][name]) for name, tensor in net.state_dict().items())
    found = stopped_run.predict(images)
    assert found.probabilities.shape == (len(images), 10)
    assert stopped_run.trained == ["simsiam", "classifier"]
    assert stopped_run.classes == found.names
    with pytest.raises(ConfigError, match=r"stage rgrl is not of this run: choose from simsiam, classifier"):
        stopped_run.predict(images, stage="rgrl")
