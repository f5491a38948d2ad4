import pytest
import torch

from dist_rmd.cli import extras
from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import encoder

library = pytest.importorskip("timm", reason="timm is not installed: pip install 'dist_rmd[timm]'")


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050", "efficientnet_b0"])
def test_the_feature_is_what_the_network_itself_makes_of_an_image(name):
    torch.manual_seed(0)
    ours = encoder(f"timm/{name}").eval()
    torch.manual_seed(0)
    theirs = library.create_model(name, num_classes=0).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
        assert ours(images).shape == (2, ours.out_features)
        assert ours.stride == 64 / ours.maps(images).shape[-1]


def test_a_network_that_timm_does_not_know_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^timm/convnextt_pico: timm .* does not make it: Unknown model"):
        encoder("timm/convnextt_pico")
    with pytest.raises(ConfigError, match="name one of its networks"):
        encoder("timm")
    with pytest.raises(ConfigError, match="has widths of its own"):
        encoder("timm/resnet18", width=16)


def test_images_of_another_side_than_a_transformer_is_made_for_are_refused():
    net = encoder("timm/vit_tiny_patch16_224")
    assert net.eval()(torch.randn(1, 3, 224, 224)).shape == (1, 192)
    with pytest.raises(ConfigError, match=r"Input height \(32\) doesn't match model \(224\)"):
        net(torch.randn(1, 3, 32, 32))


def test_without_timm_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert extras.EXTRAS["timm"] == "timm"
    with pytest.raises(ConfigError, match=r"pip install 'dist_rmd\[timm\]'"):
        encoder("timm/resnet18")
