"""Every network of timm (https://github.com/huggingface/pytorch-image-models), under the name timm/<its name there>."""

from typing import Any

from torch import Tensor

from dist_rmd.cli import extras
from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import Encoder

__all__ = ["timm"]


class Timm(Encoder):
    """A timm network without its classifier, with its own pooling: images N x 3 x S x S -> features N x D.

    Raises ConfigError for a name that timm does not know, and for images whose side the network does not take.
    """

    def __init__(self, name: str):
        super().__init__()
        with extras.explained():
            import timm as library

        try:
            net: Any = library.create_model(name, pretrained=False, num_classes=0)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"timm/{name}: timm {library.__version__} does not make it: {reason}") from None
        self.name, self.net, self.stride = name, net, _stride(net)
        self.out_features = getattr(net, "head_hidden_size", net.num_features)  # after a head's hidden layers

    def maps(self, images: Tensor) -> Tensor:
        """The network's output before its pooling: maps, or tokens N x T x D of a transformer."""
        try:
            return self.net.forward_features(images)
        except AssertionError as error:
            raise ConfigError(f"timm/{self.name}: {error}: prepare the images with that --side", agreed=True) from None

    def pool(self, maps: Tensor) -> Tensor:
        return self.net.forward_head(maps, pre_logits=True)


def _stride(net: Any) -> float:
    """The side of an image / the side of the last map; 0 where timm does not tell."""
    known = getattr(net, "feature_info", None) or [{}]
    return float(known[-1].get("reduction", 0))


def timm(width: int = 64, variant: str = "") -> Timm:
    """The network that timm calls `variant`.  Raises ConfigError without a variant, and for a width other than 64."""
    if not variant:
        raise ConfigError("timm: name one of its networks, such as timm/convnext_pico (see timm.list_models())")
    if width != 64:
        raise ConfigError(f"timm/{variant} has widths of its own: leave out the key `width` beside it")
    return Timm(variant)
