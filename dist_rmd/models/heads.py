"""The heads of an encoder: projectors and predictors of stages without labels, and the linear classifier."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dist_rmd.models.encoder import Encoder, frozen_encoder


def projector(features: int, hidden: int, out: int, layers: int) -> nn.Sequential:
    """SimSiam's projector, N x features -> N x out: `layers` linear layers, each followed by batch normalisation.

    A ReLU follows each layer but the last, whose normalisation has no affine parameters.  With layers = 0 the projector
    is the identity.
    Chen & He 2021, https://arxiv.org/abs/2011.10566, sec. 3; two layers for CIFAR (app. D).
    """
    widths = [features, *[hidden] * (layers - 1), out]
    modules: list[nn.Module] = []
    for depth in range(layers):
        last = depth == layers - 1
        modules += [
            nn.Linear(widths[depth], widths[depth + 1], bias=False),
            nn.BatchNorm1d(widths[depth + 1], affine=not last),
        ]
        modules += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)


def predictor(features: int, hidden: int) -> nn.Sequential:
    """SimSiam's predictor, a bottleneck N x features -> N x hidden -> N x features (Chen & He 2021, sec. 3)."""
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, features),
    )


def mlp(features: int, hidden: int, out: int, batchnorm: bool = False) -> nn.Sequential:
    """Two linear layers with a ReLU between them, N x features -> N x hidden -> N x out.

    The projector of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, sec. 2.1) and of MoCo v2 (Chen et al.
    2020, https://arxiv.org/abs/2003.04297).  With `batchnorm`, which stands before the ReLU, it is projector and
    predictor of BYOL (Grill et al. 2020, https://arxiv.org/abs/2006.07733, sec. 3.3).
    """
    norm = [nn.BatchNorm1d(hidden)] if batchnorm else []
    return nn.Sequential(nn.Linear(features, hidden), *norm, nn.ReLU(inplace=True), nn.Linear(hidden, out))


def linear_head(encoder: Encoder, classes: int) -> nn.Linear:
    """A linear layer from the encoder's features to logits, N x D -> N x classes, initialised by encoder.head_std."""
    head = nn.Linear(encoder.out_features, classes)
    if encoder.head_std is not None:
        nn.init.normal_(head.weight, std=encoder.head_std)
        nn.init.zeros_(head.bias)
    return head


class ImageClassifier(nn.Module):
    """An encoder with a linear head: images N x 3 x S x S -> (logits N x classes, features N x D)."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = linear_head(encoder, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(images)
        return self.head(features), features


def frozen_classifier(artefact: Mapping[str, Any]) -> ImageClassifier:
    """Load the network of an artefact that has a head, such as a teacher's, in evaluation mode and without gradient."""
    net = ImageClassifier(frozen_encoder(artefact), len(artefact["classes"]))
    net.head.load_state_dict(artefact["head"])
    return net.requires_grad_(False).eval()
