"""Divides a noisy set into clean, closed-set and open-set images by a teacher's losses (MODUL sec. IV-A, eq. 2-6).

The subjective-logic loss of an image is small where the teacher is sure of the given label (clean), largest where the
teacher is sure of another label (closed-set noise), and in between where the teacher is sure of no label (open-set
noise).  A Gaussian mixture is fitted to the losses of the whole set.  The mean of a component decides to which of the
three sets the component belongs; an image belongs to the set whose components it most probably comes from.

The thresholds 0.3 and 0.9 are for ten classes and for losses scaled to 0..1 over the set, as in the authors' code; the
paper mentions no scaling.  Where many classes share the Dirichlet's prior, the loss hardly leaves 1.  With a logit of
12 for one class and 0 for the others, the loss is

    classes    given label right    wrong    no evidence
         10                 0.21     1.30           0.98
        100                 0.80     1.01           1.00
        200                 0.89     1.00           1.00

For 100 classes, losses of closed-set and open-set noise differ by one percent before scaling.  After scaling they lie
around 0.9, and the single smallest and largest loss of the set decide where.  More evidence (`evidence="exp"`, or a
`scale` above 1) and scaling="percentile" help; `quality` tells how much, on images whose true set is known.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from dist_rmd.errors import DataError

CLEAN, CLOSED, OPEN = range(3)
SETS = ("clean", "closed", "open")
"""names of the sets: the given label is right; the given label is wrong; the image shows none of the classes"""

EVIDENCE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "softplus": lambda z: F.softplus(z, threshold=40),  # 20, the default, is for float32
    "exp": lambda z: z.clamp(-10, 10).exp(),  # the limits used when evidential networks are trained
}
SCALINGS = ("minmax", "none", "percentile", "per_class")
PERCENTILES = (0.1, 99.9)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def subjective_logic_loss(logits: Tensor, labels: Tensor, evidence: str = "relu", scale: float = 1.0) -> Tensor:
    """The subjective-logic loss of MODUL (eq. 2), the expected squared error under a Dirichlet distribution.

    logits N x C (any float type), labels N int64 in [0, C) -> N float64 in (0, 2).  The formula is eq. 5 of Sensoy et
    al. 2018 (arXiv:1806.01768), without the KL term of training:

        e = evidence(scale * logits),  alpha = e + 1,  S = sum_k alpha_k,  p = alpha / S
        l = sum_k (y_k - p_k)^2 + p_k (1 - p_k) / (S + 1)

    evidence: "relu", as in the paper; "softplus"; or "exp", with logits clamped to -10..10.
    scale: > 0.
    Raises ValueError for another evidence or scale.

    >>> import torch
    >>> from dist_rmd import subjective_logic_loss
    >>> logits = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> subjective_logic_loss(logits, torch.tensor([0, 1, 0]))  # agrees, contradicts, knows nothing
    tensor([0.0641, 1.5641, 0.8333], dtype=torch.float64)
    """
    if evidence not in EVIDENCE:
        raise ValueError(f"unknown evidence {evidence!r}: choose from {', '.join(EVIDENCE)}")
    if not scale > 0:
        raise ValueError(f"the scale of logits must be positive, got {scale}")
    alpha = EVIDENCE[evidence](scale * logits.double()) + 1
    strength = alpha.sum(dim=1, keepdim=True)  # N x 1
    p = alpha / strength
    y = F.one_hot(labels, logits.shape[1])
    return ((y - p).square() + p * (1 - p) / (strength + 1)).sum(dim=1)


def evidential_loss(logits: Tensor, labels: Tensor, share: float, evidence: str = "relu") -> Tensor:
    """The training loss of evidential networks: eq. 2 and a KL term (Sensoy et al. 2018, eq. 5 and sec. 4).

        l = subjective_logic_loss + share * KL(Dir(alpha~) || Dir(1)),  alpha~ = y + (1 - y) alpha

    alpha~ leaves out the evidence for the given label, so that the KL term punishes evidence for other labels.
    logits N x C, labels N int64 -> N float64.  share: 0..1, the authors' min(1, epoch / 10).
    """
    alpha = EVIDENCE[evidence](logits.double()) + 1
    y = F.one_hot(labels, logits.shape[1])
    wrong = y + (1 - y) * alpha
    total, classes = wrong.sum(dim=1), float(logits.shape[1])
    divergence = (
        torch.lgamma(total)
        - math.lgamma(classes)
        - torch.lgamma(wrong).sum(dim=1)
        + ((wrong - 1) * (torch.digamma(wrong) - torch.digamma(total)[:, None])).sum(dim=1)
    )
    return subjective_logic_loss(logits, labels, evidence) + share * divergence


def refined_labels(logits: Tensor) -> Tensor:
    """The teacher's predictions as new labels of closed-set images (eq. 6): logits N x C -> N int64."""
    return logits.argmax(dim=1)


def scaled(losses: ArrayLike, how: str = "minmax", labels: ArrayLike | None = None) -> Floats:
    """Scale N losses to the range of the thresholds: N float64 in 0..1 (unchanged for "none").

    how: "minmax", by the least and largest loss of the set, as in the authors' code; "percentile", by the percentiles
        0.1 and 99.9, with losses beyond them clipped; "per_class", minmax within each given class, or over the set
        where all losses of a class are equal; "none".
    labels: N given labels, for "per_class".
    Raises ValueError for another `how`, and for "per_class" without labels; DataError for losses that are not finite,
    for fewer than two losses, and for losses that are all equal.
    """
    if how not in SCALINGS:
        raise ValueError(f"unknown scaling {how!r}: choose from {', '.join(SCALINGS)}")
    values = _finite(losses)
    if how == "none":
        return values
    low, high = np.percentile(values, PERCENTILES) if how == "percentile" else (values.min(), values.max())
    if low == high:
        raise DataError(
            f"the losses of {len(values)} images cannot be scaled: {'almost ' * (how == 'percentile')}all are {low:g}, "
            "so the teacher tells none of them from another; look at the teacher, or do not scale"
        )
    lows, highs = np.full_like(values, low), np.full_like(values, high)
    if how == "per_class":
        if labels is None or np.shape(labels) != values.shape:
            raise ValueError(f"scaling=per_class needs the given labels of all {len(values)} images")
        for rows in (np.asarray(labels) == label for label in np.unique(labels)):
            if values[rows].min() < values[rows].max():
                lows[rows], highs[rows] = values[rows].min(), values[rows].max()
    return np.clip((values - lows) / (highs - lows), 0, 1)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of K Gaussians over losses, by ascending means, and the set of each component (eq. 3, 4)."""

    weights: Floats
    """weights of the components: K, summing to 1"""
    means: Floats
    """means of the components: K, ascending"""
    variances: Floats
    """variances of the components: K, at least `reg_covar`"""
    set: Integers
    """the set of each component, K: CLEAN, CLOSED or OPEN"""
    converged: bool = True
    """whether EM converged before its last iteration"""

    def assign(self, values: Floats, probability: str = "responsibilities", undecided: str = "nearest") -> "Assignment":
        """Assign N losses to sets by eq. 5; the options are those of `divide`."""
        squares = (values[:, None] - self.means) ** 2 / self.variances
        logs = np.log(self.weights) - (np.log(2 * np.pi * self.variances) + squares) / 2  # N x K, of w_j g_j
        parts = np.full((len(values), len(SETS)), -np.inf)
        for which in np.unique(self.set):
            parts[:, which] = np.logaddexp.reduce(logs[:, self.set == which], axis=1)
        if probability == "responsibilities":
            parts -= np.logaddexp.reduce(parts, axis=1)[:, None]
        chances = np.exp(parts)
        compared = parts if probability == "responsibilities" else chances
        found = compared.argmax(axis=1)
        tied = (compared == compared.max(axis=1, keepdims=True)).sum(axis=1) > 1
        nearest = np.abs(values[tied, None] - self.means).argmin(axis=1)
        found[tied] = OPEN if undecided == "open" else self.set[nearest]
        return Assignment(found, chances, tied)


class Assignment(NamedTuple):
    """The sets of N losses."""

    set: Integers
    """N: CLEAN, CLOSED or OPEN"""
    probability: Floats
    """N x 3, see DivisionResult"""
    tied: NDArray[np.bool_]
    """N: whether several sets share the largest probability"""


@dataclass(frozen=True, eq=False)
class DivisionResult:
    """The division of N images into three sets, and the mixture behind it."""

    set: Integers
    """N: CLEAN, CLOSED or OPEN"""
    probability: Floats
    """N x 3, the probability of each set; rows sum to 1, except for probability="density", parts of the density"""
    losses: Floats
    """N scaled losses"""
    mixture: Mixture
    thresholds: tuple[float, float]
    """(clean, closed): components with a mean up to `clean` are clean, from `closed` on closed, in between open"""
    undecided: int
    """number of images whose largest probability belongs to several sets (ties, and all zero)"""
    underflows: int
    """number of undecided images whose three probabilities are zero; 0 unless probability="density" """
    narrow: int
    """number of components whose variance is mostly regularisation: they stand for (almost) equal losses"""

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in each set, by name."""
        return dict(zip(SETS, np.bincount(self.set, minlength=len(SETS)).tolist(), strict=True))

    @property
    def empty(self) -> tuple[str, ...]:
        """Names of the sets without images."""
        return tuple(name for name, count in self.counts.items() if count == 0)


def divide(
    losses: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    scaling: str = "minmax",
    clean: float = 0.3,
    closed: float = 0.9,
    thresholds: Literal["fixed", "valleys"] = "fixed",
    components: int = 20,
    reg_covar: float = 5e-4,
    n_init: int = 5,
    max_iter: int = 100,
    tol: float = 1e-3,
    seed: int = 0,
    probability: Literal["responsibilities", "density"] = "responsibilities",
    undecided: Literal["nearest", "open"] = "nearest",
    force_extremes: bool = False,
) -> DivisionResult:
    """Divide N >= 2 images by their losses (N, finite) into clean, closed-set and open-set noise (eq. 3-5).

    labels: N given labels, for scaling="per_class".
    scaling: how losses are scaled first: "minmax", "percentile", "per_class" or "none", see `scaled` in
        dist_rmd/distill/division.py.
    clean, closed: thresholds for the mean of a component: clean up to `clean`, closed from `closed` on, else open.
    thresholds: "fixed": `clean` and `closed`; "valleys": the two deepest valleys of the mixture's density instead.
    components: number of Gaussians; at most the number of different losses.
    reg_covar: smallest variance of a component.
    n_init, max_iter, tol, seed: number of starts of EM, of which the best result is taken; largest number of iterations
        of EM; tolerance of EM; seed of k-means, which gives the starting points.
    probability: "responsibilities", computed in the log domain; or "density", the sums of w_j g_j, as in the paper.
        Both give the same sets, except for images whose three densities are all zero.
    undecided: the set of an image without a single most probable set: "nearest", the set of the component with the
        nearest mean (the lower mean of two), or "open", the open set.
    force_extremes: put the smallest loss into the clean set and the largest into the closed set, as in the authors'
        code; the first image if several are equal.

    The mixture is fitted to the sorted losses on one thread, so the same losses, in any order and on any number of
    ranks, give the same bits on the same kind of machine.
    Raises DataError for losses that are not finite or cannot be scaled, ValueError for values outside their range.

    >>> from dist_rmd import divide
    >>> division = divide([0.1, 0.12, 0.11, 1.5, 0.8])
    >>> division.set  # 0 clean, 1 closed-set noise, 2 open-set noise
    array([0, 0, 0, 1, 2])
    >>> division.counts
    {'clean': 3, 'closed': 1, 'open': 1}
    """
    if probability not in ("responsibilities", "density"):
        raise ValueError(f"unknown probability {probability!r}: choose from responsibilities, density")
    if undecided not in ("nearest", "open"):
        raise ValueError(f"unknown undecided {undecided!r}: choose from nearest, open")
    if thresholds not in ("fixed", "valleys"):
        raise ValueError(f"unknown thresholds {thresholds!r}: choose from fixed, valleys")
    if not clean < closed:
        raise ValueError(f"the threshold of clean must be below that of closed, got {clean} and {closed}")
    values = scaled(losses, scaling, labels)
    mixture = _fit(values, clean, closed, components, reg_covar, n_init, max_iter, tol, seed)
    if thresholds == "valleys":
        clean, closed = valleys(mixture)
        mixture = replace(mixture, set=_sets(mixture.means, clean, closed))
    found, chances, tied = mixture.assign(values, probability, undecided)
    if force_extremes:
        found[values.argmin()], found[values.argmax()] = CLEAN, CLOSED
    return DivisionResult(
        set=found,
        probability=chances,
        losses=values,
        mixture=mixture,
        thresholds=(clean, closed),
        undecided=int(tied.sum()),
        underflows=int((chances == 0).all(axis=1).sum()),
        narrow=int((mixture.variances < 2 * reg_covar).sum()),
    )


def clean_probability(losses: ArrayLike, reg_covar: float = 5e-4, max_iter: int = 10, tol: float = 1e-2) -> Floats:
    """The probability of each of N images that its label is right, by its loss: N float64 (DivideMix, sec. 3.1).

    It is the share of the component with the smaller mean in a mixture of two Gaussians, fitted to the losses after
    these have been scaled to 0..1.  The constants are those of the authors' code; the starting points of EM are fixed.
    Raises DataError for losses that are not finite or all equal.
    """
    values = scaled(losses)
    mixture = _fit(values, 0.0, 1.0, 2, reg_covar, n_init=1, max_iter=max_iter, tol=tol, seed=0)
    return replace(mixture, set=np.array([CLEAN, CLOSED])).assign(values).probability[:, CLEAN]


class Quality(NamedTuple):
    """A division compared with the true sets.  A share is None where its set is empty."""

    confusion: Integers
    """3 x 3: number of images by true set (row) and found set (column), in the order of SETS"""
    precision: tuple[float | None, ...]
    """0..1 for each set: the share of the images found for the set that truly belong to the set"""
    recall: tuple[float | None, ...]
    """0..1 for each set: the share of the images that truly belong to the set that are found for the set"""


def quality(found: ArrayLike, true: ArrayLike) -> Quality:
    """Compare the found sets of N images (CLEAN, CLOSED or OPEN) with their true sets.  Raises ValueError."""
    rows, columns = np.asarray(true), np.asarray(found)
    if rows.shape != columns.shape or not np.isin([rows, columns], range(len(SETS))).all():
        raise ValueError(f"expected as many true sets as found ones, all of them in 0..{len(SETS) - 1}")
    confusion = np.zeros((len(SETS), len(SETS)), np.int64)
    np.add.at(confusion, (rows, columns), 1)

    def shares(whole: Integers) -> tuple[float | None, ...]:
        return tuple(float(a / b) if b else None for a, b in zip(confusion.diagonal(), whole, strict=True))

    return Quality(confusion, shares(confusion.sum(axis=0)), shares(confusion.sum(axis=1)))


def _fit(
    values: Floats,
    clean: float,
    closed: float,
    components: int,
    reg_covar: float,
    n_init: int,
    max_iter: int,
    tol: float,
    seed: int,
) -> Mixture:
    # Imported only where it is used: importing scikit-learn takes more than a second.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    ordered = np.sort(values)
    model = GaussianMixture(
        min(components, len(np.unique(ordered))),
        tol=tol, reg_covar=reg_covar, max_iter=max_iter, n_init=n_init, random_state=seed,
    )  # fmt: skip
    with threadpool_limits(1), warnings.catch_warnings():  # several threads would sum in varying order
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by `converged`
        model.fit(ordered[:, None])
    order = model.means_[:, 0].argsort(kind="stable")
    means = model.means_[order, 0]
    return Mixture(
        weights=model.weights_[order],
        means=means,
        variances=model.covariances_[order, 0, 0],
        set=_sets(means, clean, closed),
        converged=bool(model.converged_),
    )


def _sets(means: Floats, clean: float, closed: float) -> Integers:
    return np.where(means <= clean, CLEAN, np.where(means >= closed, CLOSED, OPEN))


def valleys(mixture: Mixture) -> tuple[float, float]:
    """The two deepest valleys of the mixture's density, ascending: thresholds that follow the losses.

    The depth of a valley is its prominence: the height from its bottom to the lower of its two rims.
    Raises DataError where the density has fewer than two valleys.
    """
    from scipy.signal import find_peaks  # imported only where it is used: the import takes a second

    at = np.linspace(mixture.means[0], mixture.means[-1], 2001)
    squares = (at[:, None] - mixture.means) ** 2 / mixture.variances
    density = (mixture.weights / np.sqrt(2 * np.pi * mixture.variances) * np.exp(-squares / 2)).sum(axis=1)
    places, found = find_peaks(-density, prominence=0)
    if len(places) < 2:
        raise DataError(
            f"the mixture of the losses has {len(places)} valleys, and three sets need two: "
            "use division.thresholds=fixed"
        )
    low, high = sorted(at[places[found["prominences"].argsort()[-2:]]].tolist())
    return low, high


def _finite(losses: ArrayLike) -> Floats:
    """N losses as float64.  Raises DataError for fewer than two losses, and for a loss that is not finite."""
    array = losses.detach().cpu().double().numpy() if isinstance(losses, torch.Tensor) else losses
    values = np.array(array, np.float64)
    if values.ndim != 1:
        raise ValueError(f"losses must be a list of numbers, not of shape {values.shape}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise DataError(
            f"the losses of {len(wrong)} of {len(values)} images are not finite, {values[wrong[0]]} first at position "
            f"{wrong[0]}: the teacher's logits are not numbers, so train or load it anew"
        )
    if len(values) < 2:
        raise DataError(f"{len(values)} images cannot be divided into sets, two at least are needed")
    return values
