import pytest
import torch

from dist_rmd.config import sections
from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import encoder


def test_weights_come_from_the_global_generator():
    for name in ("resnet18", "vgg13"):
        torch.manual_seed(3)
        first = encoder(name, width=2)
        torch.manual_seed(3)
        second = encoder(name, width=2)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet81", "there is no 'resnet81' in dist_rmd/models/encoders: did you mean 'resnet1"),
        ("vgg13/imagenet", "vgg13/imagenet: vgg13 knows no variant .imagenet., nor any other"),
        ("resnet18/imagenett", "no ResNet with the stem 'imagenett': choose from cifar, solo-learn, imagenet"),
    ],
)
def test_a_name_that_there_is_not_is_one_line(name, words):
    with pytest.raises(ConfigError, match=words):
        encoder(name)


@pytest.mark.parametrize("key", ["model.name", "teacher.model"])
def test_a_configuration_names_an_encoder_by_its_file(key):
    config = sections.parse(None, [f"{key}=resnet50/imagenet"])
    assert config.leaves[key].value == "resnet50/imagenet"
    with pytest.raises(ConfigError) as caught:
        sections.parse(None, [f"{key}=resnet81"])
    assert str(caught.value).startswith(f"{key}=resnet81: expected one of pair, projected, resnet10, ")
    assert "; did you mean resnet1" in str(caught.value)
