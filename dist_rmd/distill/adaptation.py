"""The noise adaptation matrix of DFND (Chen et al., Learning Student Networks in the Wild, CVPR 2021).

A teacher's predictions for images from the wild are sometimes wrong, and confuse some classes more than others; the
matrix learns which.  Constants are those of the authors' code (huawei-noah/Efficient-Computing, DFND-train.py).
"""

import torch
from torch import Tensor, nn


class NoiseAdaptation(nn.Module):
    """log(softmax(z) Q): logits z, N x C -> log probabilities of the teacher's prediction, N x C; C >= 2.

    Q_ij is the probability that the teacher predicts class j for an image of class i.  Q_ii is fixed to `accuracy`, in
    0..1; the other entries of a row share 1 - accuracy by a softmax over learned numbers, evenly at first.

    Logits may be of any float type.  The computation is in float32 (float64 if the logits or the learned numbers are),
    also under autocast.  Raises ValueError for values outside these ranges.
    """

    def __init__(self, classes: int, accuracy: float):
        super().__init__()
        if classes < 2:
            raise ValueError(f"a noise adaptation matrix needs at least 2 classes, got {classes}")
        if not 0 <= accuracy <= 1:
            raise ValueError(f"the accuracy of a noise adaptation matrix must be in 0..1, got {accuracy}")
        self.accuracy = accuracy
        self._log_right, self._log_wrong = torch.tensor([accuracy, 1 - accuracy], dtype=torch.float64).log().tolist()
        self.scores = nn.Parameter(torch.zeros(classes, classes))  # the diagonal has no effect

    def matrix(self) -> Tensor:
        """The matrix Q, C x C; each row sums to 1."""
        own = torch.eye(len(self.scores), dtype=self.scores.dtype, device=self.scores.device)
        return self.accuracy * own + (1 - self.accuracy) * self._others()

    def forward(self, logits: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, self.scores.dtype)
            log_p = logits.to(dtype).log_softmax(dim=1)
            wrong = log_p.exp() @ self._others().to(dtype)
            # Keep the diagonal's part as a logarithm: with an accuracy of 1 the probability itself may underflow.
            log_wrong = wrong.clamp_min(torch.finfo(dtype).tiny).log()
            return torch.logaddexp(log_p + self._log_right, log_wrong + self._log_wrong)

    def _others(self) -> Tensor:
        """Q off the diagonal, C x C: the shares of the wrong predictions; zero on the diagonal."""
        itself = torch.eye(len(self.scores), dtype=torch.bool, device=self.scores.device)
        return self.scores.masked_fill(itself, float("-inf")).softmax(dim=1)
