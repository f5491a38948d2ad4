"""ResNets of other libraries, by their own names, give the features that the libraries' own networks give."""

import pytest
import torch
import torchvision
from support import small
from torch import nn

from dist_rmd.config import Weights, sections
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.models.encoder import encoder, frozen_encoder
from dist_rmd.pipeline import command
from dist_rmd.run import artefacts, foreign
from dist_rmd.run.finished import FinishedRun

COLOURS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)}


def theirs(name, padding=None, classes=10):
    """torchvision's network with statistics as after training; padding: with a stem of 3 x 3, without pooling."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(num_classes=classes)
    if padding:
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, padding, bias=False), nn.Identity()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return net.eval()


def features(net, images):
    """What torchvision's network gives to its last layer."""
    head, net.fc = net.fc, nn.Identity()
    with torch.no_grad():
        found = net(images)
    net.fc = head
    return found


def lightning(net):
    """A checkpoint as solo-learn writes it."""
    state = {f"backbone.{key}": value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    extra = {"momentum_backbone.conv1.weight": torch.zeros(1), "projector.0.weight": torch.zeros(3)}
    return {"state_dict": {**state, **extra}, "pytorch-lightning_version": "2.0", "epoch": 3}


def sequential(net, names):
    """lightly's backbone: the children in an nn.Sequential."""
    numbers = {name: str(number) for number, name in enumerate(names)}
    state = {key: value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    return {f"backbone.{numbers[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in state.items()}


LAYERS = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
CASES = {
    "torchvision": ("resnet18", None, lambda net: net.state_dict(), "resnet18/imagenet"),
    "bottlenecks": ("resnet50", None, lambda net: {"model": net.state_dict()}, "resnet50/imagenet"),
    "cifar": ("resnet18", 1, lambda net: {f"module.{k}": v for k, v in net.state_dict().items()}, "resnet18"),
    "solo-learn": ("resnet18", 2, lightning, "resnet18/solo-learn"),
    "lightly": ("resnet18", 1, lambda net: sequential(net, LAYERS), "resnet18"),
    "lightly, torchvision's": (
        "resnet18", None, lambda net: sequential(net, [*LAYERS[:2], "relu", "maxpool", *LAYERS[2:]]),
        "resnet18/imagenet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_the_librarys_own_forward_pass(tmp_path, case):
    name, padding, saved, model = CASES[case]
    net = theirs(name, padding)
    torch.save(saved(net), tmp_path / "weights.pth")
    found = foreign.read(tmp_path / "weights.pth")
    assert (found.model, found.width) == (model, 64)
    ours = encoder(found.model, found.width)
    ours.load_state_dict(found.encoder)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert (ours.eval()(images) - features(net, images)).abs().max() < 1e-5


def test_timms_network_gives_the_same_and_its_file_may_be_safetensors(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'dist_rmd[timm]'")
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    net = timm.create_model("resnet34", num_classes=10).eval()
    library.save_file(net.state_dict(), tmp_path / "weights.safetensors", {"mean": "[0.4, 0.5, 0.6]"})
    found = foreign.read(tmp_path / "weights.safetensors")
    assert found.mean == COLOURS["mean"]
    ours = encoder(found.model, found.width)
    ours.load_state_dict(found.encoder)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(images), pre_logits=True)
        assert (ours.eval()(images) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"blocks.0.attn.weight": torch.zeros(2)}, r"blocks\.0\.attn\.weight are not recognised; a ResNet of"),
        ({"epoch": 3}, "no table of tensors"),
        ({**theirs("resnet18").state_dict(), "layer1.0.se.fc.weight": torch.zeros(2)}, "such as layer1.0.se.fc.weight"),
        ({k: v for k, v in theirs("resnet18").state_dict().items() if "layer2.0.bn1" not in k}, "are missing"),
    ],
)
def test_a_file_of_something_else_is_one_line(tmp_path, content, words):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=words) as caught:
        foreign.read(tmp_path / "weights.pth")
    assert str(caught.value).startswith(f"{tmp_path}/weights.pth: ")


def test_a_file_must_say_how_its_images_were_normalised_and_know_the_classes(tmp_path):
    weights = foreign.read(_saved(tmp_path))
    with pytest.raises(ConfigError, match=r"such as ImageNet's weights\.mean=\[0\.485,"):
        foreign.artefact(tmp_path, "simsiam", weights, ("a",), 8, Weights())
    with pytest.raises(DataError, match="knows 10 classes, but the images have 1"):
        foreign.artefact(tmp_path, "teacher", weights, ("a",), 8, Weights(**COLOURS))
    made = foreign.artefact(tmp_path, "teacher", weights, tuple("abcdefghij"), 8, Weights(**COLOURS))
    other = foreign.artefact(tmp_path, "teacher", weights, tuple("abcdefghij"), 8, Weights(**COLOURS, side=32))
    assert made["head"].keys() == {"weight", "bias"}
    assert made["key"] != other["key"]


def _saved(folder):
    torch.save(theirs("resnet18").state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def test_a_pretrained_classifier_is_the_teacher_of_a_whole_run(tmp_path):
    """It divides the images and teaches two students, as one that this package has trained."""
    file, data = _saved(tmp_path), small.prepare(tmp_path)
    words = [
        *small.RECIPE, "stages=[division,vkd,modul]", "student.epochs=1", "data.reader=memory", f"data.path={data}",
        f"out={tmp_path / 'runs'}", f"inputs.teacher={file}", "weights.mean=[0.4,0.5,0.6]",
        "weights.std=[0.2,0.2,0.3]", "weights.side=16",
    ]  # fmt: skip
    assert command.main(words) == 0
    run = FinishedRun(tmp_path / "runs" / "run")
    assert {"vkd", "modul"} <= {name for name in run.stages if run.scores(name)[-1]["epoch"] == 1}


def test_a_pretrained_network_guides_a_narrower_student_at_a_side_of_its_own(tmp_path, capsys):
    file, data = _saved(tmp_path), small.prepare(tmp_path)
    words = [
        *small.RECIPE, "stages=[rgrl]", "task.epochs=1", "data.reader=memory", f"data.path={data}",
        f"out={tmp_path / 'runs'}", f"inputs.simsiam={file}",
    ]  # fmt: skip
    colours = ["weights.mean=[0.4,0.5,0.6]", "weights.std=[0.2,0.2,0.3]", "weights.side=32"]
    assert command.main([*words, *colours]) == 2
    assert "set relation.node=0, which leaves edge matching" in capsys.readouterr().err
    done = [*words, *colours, "relation.node=0", "name=guided"]
    assert command.main(done) == 0
    run = FinishedRun(tmp_path / "runs" / "guided")
    kept = artefacts.load(run.artefact("simsiam"))
    assert (kept["model"]["name"], kept["sees"], kept["mean"]) == ("resnet18/imagenet", 32, [0.4, 0.5, 0.6])
    assert 0 < kept["scores"][-1]["test/knn_top1"] <= 100  # which the student's accuracy is compared with
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        seen = run.network("simsiam").encoder(images) - frozen_encoder(kept)(images)
    assert seen.abs().max() < 1e-5
    assert command.main(done) == 0  # finished before
    assert sections.parse(run.folder.config).weights.side == 32
