"""A trained network as other programs use networks: pixels in 0..1 in, logits, probabilities or features out."""

import torch
from torch import Tensor, nn

from dist_rmd.run.saved import SavedNetwork


class Deployed(nn.Module):
    """Network of images N x 3 x S x S float32, RGB in 0..1, normalisation included; on the CPU, in evaluation mode.

    output: `logits`, N x C; `probabilities`, the softmax of the logits; or `features`, N x D, of the encoder.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, saved: SavedNetwork, softmax: bool = False):
        super().__init__()
        self.net = saved.network().eval()
        self.output = "features" if not saved.is_classifier else "probabilities" if softmax else "logits"
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(saved.origin, name)).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        if self.output == "features":
            return self.net.get_submodule("encoder")(normalised)
        logits = self.net(normalised)[0]
        return logits.softmax(dim=1) if self.output == "probabilities" else logits
