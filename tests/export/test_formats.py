"""What an exported file gives is what the network gives: the lines that are printed are run as they stand."""

import json
import re
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from dist_rmd.config import sections
from dist_rmd.errors import UserError
from dist_rmd.export import formats
from dist_rmd.export.__main__ import main
from dist_rmd.export.deployed import Deployed
from dist_rmd.models.encoder import encoder
from dist_rmd.run import artefacts, start
from dist_rmd.run.finished import FinishedRun
from dist_rmd.run.folder import RunFolder

CLASSES = ["cat", 'a "dog"', "Übung"]
MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.125)


def made(folder, name="resnet10", width=8):
    """A run with two finished stages, whose weights and batch statistics are not those of a fresh network."""
    config = sections.parse(None, ["stages=[simsiam,classifier]", f"model.width={width}", f"model.name={name}"])
    start.describe(RunFolder(folder), config, world=1, device="cpu")
    torch.manual_seed(0)
    body = encoder(name, width)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    known = {
        "classes": CLASSES, "side": 16, "mean": list(MEAN), "std": list(STD), "model": {"name": name, "width": width},
        "key": "0123456789abcdef", "scores": [{"epoch": 7, "step": 9, "test/top1": 50.0}],
        "encoder": body.state_dict(),
    }  # fmt: skip
    head = {"head": nn.Linear(body.out_features, 3).state_dict()}
    artefacts.save(folder / "simsiam/artefact.pt", folder / "a.pt", {**known, "stage": "simsiam"})
    artefacts.save(folder / "classifier/artefact.pt", folder / "b.pt", {**known, **head, "stage": "classifier"})
    return FinishedRun(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("run with 'quotes'"))


def exported(capsys, run, *words):
    """What is printed, and the lines of Python in it, by file."""
    assert main([str(run.path), *map(str, words)]) == 0
    said = capsys.readouterr().out
    blocks = re.findall(r"^(\S.*?) \(\d+\.\d MB\): (.*?)\n\n((?:    .*\n?)+)", said, re.MULTILINE)
    return said, {path.rpartition(".")[2]: (words, textwrap.dedent(lines)) for path, words, lines in blocks}


def naive(run, images, stage="classifier"):
    """Logits, or features, in float64: normalised by hand."""
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN, STD))
    net = run.network(stage).double()
    with torch.no_grad():
        normalised = torch.from_numpy((images.astype(np.float64) - mean) / std)
        return (net(normalised)[0] if stage == "classifier" else net.encoder(normalised)).numpy()


def executed(lines, images):
    """The names that the lines leave behind."""
    names = {"images": images}
    exec(lines, names)
    return names


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((5, 3, 16, 16), np.float32)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_printed_lines_give_the_networks_logits(run, images, capsys, tmp_path):
    words = ["--format", "safetensors,onnx,torchscript", "--out", tmp_path]
    said, found = exported(capsys, run, *words)
    assert said.startswith(f"{run.folder}: classifier (last epoch, 7), 3 classes\n")
    assert "resize: shorter side to 16 (antialiased bicubic), then the centre 16 x 16" in said
    assert list(found) == ["safetensors", "onnx", "pt"]
    for kind, (compared, lines) in found.items():
        assert re.match(r"its outputs are the network's up to \d\.\de-\d\d|.* up to 0\.0e\+00", compared)
        names = executed(lines, images if kind == "onnx" else torch.from_numpy(images))
        logits = names["logits"] if kind == "onnx" else names["logits"].detach().numpy()
        np.testing.assert_allclose(logits, naive(run, images), atol=1e-5, rtol=1e-5)
        assert names["classes"] == CLASSES


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("stage", ["classifier", "simsiam"])
@pytest.mark.parametrize("names", ["torchvision", "timm"])
def test_the_weights_work_in_other_libraries_under_their_names(images, capsys, tmp_path, names, stage):
    run = made(tmp_path, "resnet18", 64)
    _, found = exported(capsys, run, "--names", names, "--stage", stage)
    left = executed(found["safetensors"][1], torch.from_numpy(images))
    assert type(left["net"]).__module__ == f"{names}.models.resnet"
    output = left["logits" if stage == "classifier" else "features"].detach().numpy()
    np.testing.assert_allclose(output, naive(run, images, stage), atol=1e-4, rtol=1e-5)
    assert output.std() > 0.1


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet50", ["--names", "torchvision"]),
        ("timm/test_vit2", []),
        ("timm/test_byobnet", ["--format", "safetensors,torchscript"]),
        pytest.param("resnet50", ["--format", "onnx"], marks=pytest.mark.slow),
    ],
)
def test_bottlenecks_and_timms_networks_are_exported_too(images, capsys, tmp_path, name, words):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is not installed: pip install 'dist_rmd[timm]'")
    run = made(tmp_path, name, 64)
    _, found = exported(capsys, run, *words)
    for kind, (_, lines) in found.items():
        names = executed(lines, images if kind == "onnx" else torch.from_numpy(images))
        logits = names["logits"] if kind == "onnx" else names["logits"].detach().numpy()
        np.testing.assert_allclose(logits, naive(run, images), atol=1e-4, rtol=1e-5)
    assert found


def test_an_encoder_alone_gives_features(run, images, capsys, tmp_path):
    words = ["--stage", "simsiam", "--format", "torchscript,safetensors", "--out", tmp_path]
    _, found = exported(capsys, run, *words)
    for _, lines in found.values():
        features = executed(lines, torch.from_numpy(images))["features"].detach().numpy()
        np.testing.assert_allclose(features, naive(run, images, "simsiam"), atol=1e-5, rtol=1e-5)


def test_probabilities_and_metadata_of_a_picture_as_prepare_makes_it(run, capsys, tmp_path):
    """From an image file of another size to what load_run(...).predict says of it."""
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 30, 3), np.uint8))
    _, found = exported(capsys, run, "--format", "torchscript", "--softmax", "--out", tmp_path)
    pixels = np.array(ImageOps.fit(picture, (16, 16), Image.Resampling.BICUBIC))
    names = executed(found["pt"][1], torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    np.testing.assert_allclose(names["probabilities"].numpy(), run.predict(picture).probabilities, atol=1e-6)
    about = json.loads(names["about"]["dist_rmd.json"])
    assert json.loads(about["mean"]) == list(MEAN)
    assert (about["side"], about["output"], about["trained"]) == ("16", "probabilities", "last epoch, 7")


def test_what_differs_from_the_network_is_not_written(run, capsys, tmp_path, monkeypatch):
    saved = run.saved("classifier")
    other = Deployed(saved)
    monkeypatch.setattr(formats.torch.jit, "load", lambda _: lambda images: other(images) + 1e-3)
    with pytest.raises(UserError, match=r"nothing is written: .* differ from the network.s by 0\.001"):
        formats.torchscript(saved, Deployed(saved))
    assert main([str(run.path), "--format", "torchscript", "--out", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--format", "tflite"], 2, "there is no format 'tflite': choose from safetensors, onnx, torchscript"),
        (["--names", "timm"], 2, "ResNets there begin with 64 channels, but this one has model.width=8"),
        (["--names", "timm", "--format", "onnx"], 2, "--names timm is about the keys of safetensors"),
        (["--softmax"], 2, "--softmax is for onnx and torchscript"),
        (["--softmax", "--format", "onnx", "--stage", "simsiam"], 2, "stage simsiam has no classifier"),
        (["--stage", "rgrl"], 2, "stage rgrl is not of this run"),
        (["--best"], 65, "no checkpoint with a score"),
        (["--out", "/proc/none"], 73, "/proc/none"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, words, code, line):
    assert main([str(run.path), *words]) == code
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_a_network_that_other_libraries_do_not_have(capsys, tmp_path):
    run = made(tmp_path, "vgg13")
    assert main([str(run.path), "--names", "torchvision"]) == 2
    assert "vgg13 is not in torchvision as it is here; take --names dist_rmd" in capsys.readouterr().err
