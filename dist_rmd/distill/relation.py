"""The relation loss of RMDNet (sec. 3.2.2 and 3.3, eq. 5-10), also known as embedding graph alignment (Ma et al. 2022).

Teacher and student see the same B samples.  Z_t and Z_s (B x D) are their rows of features, centred over features and
scaled to unit length, so that products of rows are Pearson correlations:

    E_t = Z_t Z_t^T,  E_s = Z_s Z_s^T,  M = Z_t Z_s^T             B x B
    edge = ||E_t - E_s||_F,  node = ||M - I||_F                   neither squared nor averaged
    loss = node_weight * node + edge_weight * edge

B counts the rows of all ranks.  Edge grows like B and node about like sqrt(B): weights fit one global batch size.
Beyond the paper, norms may be divided by B, and entries of M - I left out; docs/relation.md gives the reasons.

Two forms give the same values and gradients; docs/relation.md compares their cost and accuracy.  Both compute the
gradient of the local rows in the forward pass, in closed form, so that the backward pass communicates nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dist_rmd.distributed.collectives import all_gather_rows, all_reduce_sum, gather_sizes, rank, world_size
from dist_rmd.engine.precision import full_float32

__all__ = ["RelationLoss"]

CHOICES = {
    "method": ("auto", "gather", "gram"),
    "norm": ("fro", "rms"),
    "node_pairs": ("all", "other_label", "self"),
}


class Relation(NamedTuple):
    """The three values of the global batch (0-d, equal on all ranks)."""

    loss: Tensor
    """differentiable with respect to the student"""
    node: Tensor
    """in the chosen norm, unweighted, without gradient"""
    edge: Tensor
    """in the chosen norm, unweighted, without gradient"""


class RelationLoss(nn.Module):
    """loss = node * ||M - I|| + edge * ||E_t - E_s|| over the global batch.  The module has no parameters.

    node, edge: weights >= 0; 0.8 and 0.35 in the paper (sec. 4.3; its text under eq. 10 swaps their names).
    method: which form to compute.  "gather" exchanges the B x D rows; each rank forms its own rows of the B x B
        matrices.  "gram" sums three D x D matrices over ranks and forms nothing that grows with B but its own rows.
        "auto" takes gram from B = 3 D on.
    eps: > 0; centred rows of at most this length count as constant: they have correlation 0 and get no gradient.  A
        Frobenius norm of at most eps has gradient zero.
    norm: "fro" is the paper's ||.||_F; "rms" is the root of the mean of all B^2 squared entries, ||.||_F / B.
    node_pairs: the entries of M - I that count; others are set to zero.  "all"; "other_label": pairs of samples with
        different labels, and the diagonal; "self": the diagonal alone.  "gram" supports only "all"; "auto" takes gather
        for the other choices.
    Raises ValueError for a value out of range, an unknown choice, and gram with anything but all pairs.

    In a process group, the global batch is the batch of all ranks, and the gradient is scaled for DDP.  Without a
    process group, the global batch is the given batch.

    >>> import torch
    >>> from dist_rmd import RelationLoss
    >>> relation = RelationLoss(node=0.8, edge=0.35)
    >>> teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> student = teacher.clone().requires_grad_()
    >>> loss, node, edge = relation(teacher, student)
    >>> round(float(node), 4), float(edge)  # the two samples correlate with -0.5
    (0.7071, 0.0)
    >>> loss.backward()
    """

    def __init__(
        self,
        node: float = 0.8,
        edge: float = 0.35,
        method: str = "auto",
        eps: float = 1e-8,
        norm: str = "fro",
        node_pairs: str = "all",
    ):
        super().__init__()
        if not (node >= 0 and edge >= 0 and eps > 0):
            raise ValueError(f"relation needs node >= 0, edge >= 0 and eps > 0, got {node}, {edge} and {eps}")
        for option, choice in {"method": method, "norm": norm, "node_pairs": node_pairs}.items():
            if choice not in CHOICES[option]:
                raise ValueError(f"unknown relation {option} {choice!r}: choose from {', '.join(CHOICES[option])}")
        if method == "gram" and node_pairs != "all":
            raise ValueError(f"relation method gram forms no pairs, node_pairs={node_pairs} needs gather or auto")
        self.node, self.edge, self.method, self.eps = node, edge, method, eps
        self.norm, self.node_pairs = norm, node_pairs

    def forward(
        self, teacher: Tensor, student: Tensor, sizes: Sequence[int] | None = None, labels: Tensor | None = None
    ) -> Relation:
        """teacher, student: this rank's rows, b_r x D (any float type; b_r may differ by rank) -> Relation.

        With node = 0 teacher and student may have different D; the value of node is then 0.
        The computation is in float32 (float64 if an input is), also under autocast.  No gradient reaches the teacher.
        The student's gradient is scaled so that DDP's mean over ranks is the gradient of the global batch's loss.
        sizes: the b_r of all ranks in rank order, if known; else the ranks exchange their sizes, which synchronises the
            device.
        labels: b_r int64, for node_pairs="other_label".
        Raises ValueError when the shapes differ, and when labels are needed but not given.
        """
        alike = teacher.shape == student.shape
        if teacher.dim() != 2 or student.dim() != 2 or len(teacher) != len(student) or not (alike or self.node == 0):
            shapes = " and ".join(str(tuple(features.shape)) for features in (teacher, student))
            raise ValueError(f"teacher and student features must be rows x width of one size, got {shapes}")
        width = max(teacher.shape[1], student.shape[1])
        if sizes is None:
            sizes = gather_sizes(len(student), student.device)
        rows = sum(sizes)
        scale = 1 / rows if self.norm == "rms" else 1.0
        dtype = torch.promote_types(torch.promote_types(teacher.dtype, student.dtype), torch.float32)
        with torch.autocast(student.device.type, enabled=False), full_float32():
            z_t = _standardise(teacher.detach().to(dtype), self.eps)
            z_s = _standardise(student.to(dtype), self.eps)
            # Padding with zeros changes no product of two rows of one network, and edge depends on such products alone.
            z_t, z_s = (z if z.shape[1] == width else F.pad(z, (0, width - z.shape[1])) for z in (z_t, z_s))
            with torch.no_grad():
                method = auto(rows, z_s.shape[1], self.node_pairs) if self.method == "auto" else self.method
                if method == "gram":
                    node, edge, gradient = _gram(z_t, z_s, sizes)
                else:
                    node, edge, gradient = _gather(z_t, z_s, sizes, self._left_out(z_s, sizes, labels))
                to_node, to_edge = (
                    scale * weight * _inverse(norm, self.eps) for weight, norm in ((self.node, node), (self.edge, edge))
                )
                slope = gradient(to_node, to_edge).to(dtype)
                node, edge = scale * node.to(dtype) * alike, scale * edge.to(dtype)
            # The gradient must be summed over ranks, and DDP takes the mean: hence the factor.
            loss = _Known.apply(z_s, self.node * node + self.edge * edge, slope * world_size())
        return Relation(loss, node, edge)

    def extra_repr(self) -> str:
        """The settings in the module's repr."""
        names = ("node", "edge", "method", "eps", "norm", "node_pairs")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _left_out(self, z_s: Tensor, sizes: Sequence[int], labels: Tensor | None) -> Tensor | None:
        """b x B, true where node leaves out the pair of this rank's row and a row of the batch; None for no pair."""
        if self.node_pairs == "all":
            return None
        if self.node_pairs == "self":
            left_out = torch.ones(len(z_s), sum(sizes), dtype=torch.bool, device=z_s.device)
        elif labels is None or labels.shape != z_s.shape[:1]:
            shape = None if labels is None else tuple(labels.shape)
            raise ValueError(f"node_pairs=other_label needs the labels of all {len(z_s)} rows, got {shape}")
        else:
            left_out = labels[:, None] == all_gather_rows(labels, sizes)
        _diagonal(left_out, sizes).fill_(False)
        return left_out


def auto(rows: int, width: int, node_pairs: str = "all") -> str:
    """The method for a global batch of `rows` (B) and `width` features (D).

    The cost of gram grows like B D^2 in float64, the cost of gather like B^2 D in float32; on CPUs both measured equal
    between B = 2 D and 3 D.  The choice ignores the world size, so that a run has the same form on any number of ranks.
    """
    return "gram" if rows >= 3 * width and node_pairs == "all" else "gather"


def _standardise(x: Tensor, eps: float) -> Tensor:
    """Centre rows over features and scale them to unit length; constant rows become zero."""
    # Centring undoes any shift.  A shift by the first feature makes constant rows exactly zero; a rounded mean may not.
    x = x - x[:, :1].detach()
    x = x - x.mean(1, keepdim=True)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x * _inverse(length, eps)


class _Known(Function):
    """A value (0-d) whose gradient with respect to z_s is already known."""

    @staticmethod
    def forward(ctx: Any, z_s: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return d_value * gradient, None, None


# Each form returns the norms of the whole batch, and a function: the gradient of to_node * node^2 / 2 + to_edge *
# edge^2 / 2 in this rank's Z_s.  As d||A||_F = <A, dA> / ||A||_F, the factor 1 / norm turns this into the gradient of
# the norm itself.  In E_s = Z_s Z_s^T, which is symmetric, a row of Z_s counts twice:
#
#     edge d edge / d Z_s = 2 (E_s - E_t) Z_s = 2 (Z_s G_s - Z_t C)
#     node d node / d Z_s = (M - I)^T Z_t = Z_s G_t - Z_t

Form = tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]
"""node (0-d), edge (0-d), and the function (to_node, to_edge) -> gradient b x D"""


def _gather(z_t: Tensor, z_s: Tensor, sizes: Sequence[int], left_out: Tensor | None) -> Form:
    """Each rank forms its own b x B rows of E_t - E_s and of M^T - I from the gathered B x D rows."""
    both = all_gather_rows(torch.cat([z_t, z_s], dim=1), sizes)  # B x 2D, one collective
    all_t, all_s = (part.contiguous() for part in both.chunk(2, dim=1))  # B x D each
    # Subtract two products of the same layout: equal features then give exactly zero.
    edges = z_t @ all_t.T - z_s @ all_s.T  # b x B
    nodes = z_s @ all_t.T  # b x B
    _diagonal(nodes, sizes).sub_(1)
    if left_out is not None:
        nodes.masked_fill_(left_out, 0)
    edge, node = all_reduce_sum(torch.stack([edges.square().sum(), nodes.square().sum()])).sqrt().unbind()

    def gradient(to_node: Tensor, to_edge: Tensor) -> Tensor:
        return edges @ all_s * (-2 * to_edge) + nodes @ all_t * to_node

    return node, edge, gradient


def _gram(z_t: Tensor, z_s: Tensor, sizes: Sequence[int]) -> Form:
    """Sums of D x D matrices over ranks, since <X X^T, Y Y^T> = ||X^T Y||_F^2:

        G_t = Z_t^T Z_t,  G_s = Z_s^T Z_s,  C = Z_t^T Z_s
        edge^2 = ||G_t||^2 + ||G_s||^2 - 2 ||C||^2,  node^2 = <G_t, G_s> - 2 tr C + B

    Once the student is near the teacher, edge^2 is a small difference of large numbers, in float32 mere noise or even
    negative.  The products themselves must be float64; wider sums of float32 products do not help.
    """
    z_t, z_s = z_t.double(), z_s.double()
    # A single collective.  All products have the same layout: equal features give equal matrices, and edge exactly 0.
    g_t, g_s, c = all_reduce_sum(torch.stack([z_t.T @ z_t, z_s.T @ z_s, z_t.T @ z_s])).unbind()  # D x D each
    edge = (g_t.square() + g_s.square() - 2 * c.square()).sum().clamp_min(0).sqrt()
    node = ((g_t * g_s).sum() - 2 * c.trace() + sum(sizes)).clamp_min(0).sqrt()

    def gradient(to_node: Tensor, to_edge: Tensor) -> Tensor:
        from_s, from_t = 2 * to_edge * g_s + to_node * g_t, 2 * to_edge * c  # D x D
        from_t.diagonal().add_(to_node)
        return (z_s @ from_s).addmm_(z_t, from_t, alpha=-1)

    return node, edge, gradient


def _diagonal(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The entries of this rank's b x B rows that pair a sample with itself, as a view."""
    return rows.diagonal(sum(sizes[: rank()]))


def _inverse(norm: Tensor, eps: float) -> Tensor:
    """1 / norm; where the norm is at most eps, zero with gradient zero."""
    return (norm > eps) / norm.clamp_min(eps)
