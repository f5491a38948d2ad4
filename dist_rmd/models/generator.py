"""The generator of images from noise that the data-free distillation methods train.

DAFL (Chen et al. 2019, https://arxiv.org/abs/1904.01186), DFAD (Fang et al. 2019, https://arxiv.org/abs/1912.11006) and
ZSKT (Micaelli & Storkey 2019, https://arxiv.org/abs/1905.09768) share this architecture; ZSKT leaves out the Tanh.
DAFL's code has eps = 0.8 in two of the batch normalisations; here all have the usual 1e-5.
"""

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
"""negative slope of LeakyReLU"""


class Generator(nn.Module):
    """Noise N x latent -> images N x 3 x side x side, each channel with mean 0 and variance 1 over the batch.

    A linear layer makes maps of side / 4 with 2 * width channels.  Nearest-neighbour interpolation doubles their side
    twice, each time followed by a convolution; the second convolution halves the channels, and a last convolution makes
    the three colours.  bounded: put a Tanh before the last normalisation.  Weights come from torch's global generator.
    """

    def __init__(self, latent: int, side: int, width: int = 64, bounded: bool = True):
        super().__init__()
        self.start, self.side = -(-side // 4), side
        wide = 2 * width
        self.project = nn.Linear(latent, wide * self.start**2)
        self.begin = nn.BatchNorm2d(wide)
        self.middle = nn.Sequential(nn.Conv2d(wide, wide, 3, 1, 1), nn.BatchNorm2d(wide), nn.LeakyReLU(SLOPE))
        self.end = nn.Sequential(
            nn.Conv2d(wide, width, 3, 1, 1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 3, 3, 1, 1),
            nn.Tanh() if bounded else nn.Identity(),
            nn.BatchNorm2d(3, affine=False),
        )

    def forward(self, noise: Tensor) -> Tensor:
        x = self.begin(self.project(noise).unflatten(1, (-1, self.start, self.start)))
        x = self.middle(F.interpolate(x, size=2 * self.start))
        return self.end(F.interpolate(x, size=self.side))
