"""The relation loss of RMDNet (sec. 3.2.2 and 3.3, eq. 5-10), that of embedding graph alignment (Ma et al. 2022).

Both networks see the same B samples.  Rows are centred over features and scaled to unit length, Z_t and Z_s (B x D),
so that products of rows are Pearson correlations:

    E_t = Z_t Z_t^T,  E_s = Z_s Z_s^T,  M = Z_t Z_s^T             B x B
    edge = ||E_t - E_s||_F,  node = ||M - I||_F                   neither squared nor averaged
    loss = node_weight * node + edge_weight * edge

B counts the rows of all ranks.  Edge grows like B and node about like sqrt(B): weights belong to a global batch size.

Two forms give the same values and gradients; docs/relation.md compares their cost and accuracy.  Both find the
gradient of the local rows in the forward pass, in closed form, so that the backward pass communicates nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dist_rmd.collectives import all_gather_rows, all_reduce_sum, gather_sizes, rank, world_size

__all__ = ["RelationLoss"]


class Relation(NamedTuple):
    """The three values of the global batch (0-d, equal on all ranks)."""

    loss: Tensor
    """differentiable with respect to the student"""
    node: Tensor
    """unweighted, without gradient"""
    edge: Tensor
    """unweighted, without gradient"""


class RelationLoss:
    """loss = node * ||M - I||_F + edge * ||E_t - E_s||_F over the global batch.

    node, edge: weights >= 0; 0.8 and 0.35 in the paper (sec. 4.3; its text under eq. 10 swaps their names).
    method: which form to compute.  "gather" exchanges the B x D rows; each rank forms its own rows of the B x B
    matrices.  "gram" sums three D x D matrices over ranks and forms nothing that grows with B but its own rows.
    "auto" takes gram from B = 3 D on.
    eps > 0: centred rows of at most this length count as constant: they correlate with nothing and get no gradient.
    A norm of at most eps has gradient zero.
    Raises ValueError for a value out of range and for an unknown method.
    """

    def __init__(self, node: float = 0.8, edge: float = 0.35, method: str = "auto", eps: float = 1e-8):
        if not (node >= 0 and edge >= 0 and eps > 0):
            raise ValueError(f"relation needs node >= 0, edge >= 0 and eps > 0, got {node}, {edge} and {eps}")
        if method not in (choices := ["auto", *METHODS]):
            raise ValueError(f"unknown relation method {method!r}: choose from {', '.join(choices)}")
        self.node, self.edge, self.method, self.eps = node, edge, method, eps

    def __call__(self, teacher: Tensor, student: Tensor, sizes: Sequence[int] | None = None) -> Relation:
        """teacher, student: this rank's rows, b_r x D (any float type, one D; b_r may differ by rank) -> Relation.

        Rows are float32 (float64 if an input is), whatever autocast says.  No gradient reaches the teacher.  The
        student's gradient is scaled so that its mean over ranks, which DDP takes, is the global batch's.
        sizes: the b_r of all ranks in rank order, if known; else they are exchanged, which is a device synchronisation.
        Raises ValueError when the shapes differ.
        """
        if teacher.dim() != 2 or teacher.shape != student.shape:
            shapes = " and ".join(str(tuple(features.shape)) for features in (teacher, student))
            raise ValueError(f"teacher and student features must be rows x width of one size, got {shapes}")
        if sizes is None:
            sizes = gather_sizes(len(student), student.device)
        dtype = torch.promote_types(torch.promote_types(teacher.dtype, student.dtype), torch.float32)
        with torch.autocast(student.device.type, enabled=False), _full_float32():
            z_t = _standardise(teacher.detach().to(dtype), self.eps)
            z_s = _standardise(student.to(dtype), self.eps)
            method = auto(sum(sizes), z_s.shape[1]) if self.method == "auto" else self.method
            return Relation(*_Loss.apply(z_s, z_t, METHODS[method], self.node, self.edge, self.eps, sizes))


def auto(rows: int, width: int) -> str:
    """The method for a global batch of `rows` (B) and `width` features (D).

    Gram's products grow like B D^2 in float64, gather's like B^2 D in float32: measured on CPUs, they cost the same
    between B = 2 D and 3 D.  Ranks do not count, so that a run takes the same form on any number of them.
    """
    return "gram" if rows >= 3 * width else "gather"


def _standardise(x: Tensor, eps: float) -> Tensor:
    """Centre rows over features and scale them to unit length; constant rows become zero."""
    # Centring undoes any shift.  This one makes constant rows exactly zero, which subtracting a rounded mean does not.
    x = x - x[:, :1].detach()
    x = x - x.mean(1, keepdim=True)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x * _inverse(length, eps)


class _Loss(Function):
    """The weighted sum of node and edge, with the gradient that the method found beside their values."""

    @staticmethod
    def forward(
        ctx: Any, z_s: Tensor, z_t: Tensor, method: "Method", node: float, edge: float, eps: float, sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        node_norm, edge_norm, gradient = method(z_t, z_s, node, edge, eps, sizes)
        # DDP averages over ranks what must be summed over rows.
        ctx.save_for_backward(gradient * world_size())
        ctx.mark_non_differentiable(node_norm, edge_norm)
        return node * node_norm + edge * edge_norm, node_norm, edge_norm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return d_loss * gradient, None, None, None, None, None, None


# d||A||_F = <A, dA> / ||A||_F.  In E_s = Z_s Z_s^T, which is symmetric, a row of Z_s counts twice:
#
#     d edge / d Z_s = 2 (E_s - E_t) Z_s / edge = 2 (Z_s G_s - Z_t C) / edge
#     d node / d Z_s = (M - I)^T Z_t / node = (Z_s G_t - Z_t) / node


def _gather(
    z_t: Tensor, z_s: Tensor, node_weight: float, edge_weight: float, eps: float, sizes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Each rank forms its own b x B rows of E_t - E_s and of M^T - I from the gathered B x D rows."""
    both = all_gather_rows(torch.cat([z_t, z_s], dim=1), sizes)  # B x 2D, one collective
    all_t, all_s = (part.contiguous() for part in both.chunk(2, dim=1))  # B x D each
    # Two products of one layout, then the difference: equal features give exactly zero.
    edges = z_t @ all_t.T - z_s @ all_s.T  # b x B
    nodes = z_s @ all_t.T  # b x B
    nodes.diagonal(sum(sizes[: rank()])).sub_(1)  # the identity's ones in this rank's rows
    edge, node = all_reduce_sum(torch.stack([edges.square().sum(), nodes.square().sum()])).sqrt().unbind()
    d_edge = edges @ all_s * (-2 * edge_weight * _inverse(edge, eps))  # b x D
    d_node = nodes @ all_t * (node_weight * _inverse(node, eps))  # b x D
    return node, edge, d_edge + d_node


def _gram(
    z_t: Tensor, z_s: Tensor, node_weight: float, edge_weight: float, eps: float, sizes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of D x D matrices over ranks, since <X X^T, Y Y^T> = ||X^T Y||_F^2:

        G_t = Z_t^T Z_t,  G_s = Z_s^T Z_s,  C = Z_t^T Z_s
        edge^2 = ||G_t||^2 + ||G_s||^2 - 2 ||C||^2,  node^2 = <G_t, G_s> - 2 tr C + B

    edge^2 is a small difference of large numbers once the student is near the teacher.  In float32 it is noise there,
    even negative.  The products themselves must be float64; wider sums of float32 products do not help.
    """
    dtype, (z_t, z_s) = z_s.dtype, (z_t.double(), z_s.double())
    # One collective.  Products of one layout: equal features give three equal matrices, so that edge is exactly zero.
    g_t, g_s, c = all_reduce_sum(torch.stack([z_t.T @ z_t, z_s.T @ z_s, z_t.T @ z_s])).unbind()  # D x D each
    edge = (g_t.square() + g_s.square() - 2 * c.square()).sum().clamp_min(0).sqrt()
    node = ((g_t * g_s).sum() - 2 * c.trace() + sum(sizes)).clamp_min(0).sqrt()
    to_edge, to_node = 2 * edge_weight * _inverse(edge, eps), node_weight * _inverse(node, eps)
    from_s, from_t = to_edge * g_s + to_node * g_t, to_edge * c  # D x D
    from_t.diagonal().add_(to_node)
    gradient = (z_s @ from_s).addmm_(z_t, from_t, alpha=-1)  # b x D
    return node.to(dtype), edge.to(dtype), gradient.to(dtype)


Method = Callable[[Tensor, Tensor, float, float, float, Sequence[int]], tuple[Tensor, Tensor, Tensor]]
"""(Z_t and Z_s of this rank, node weight, edge weight, eps, rows of all ranks) -> (node, edge, d loss / d Z_s)"""

METHODS: dict[str, Method] = {"gather": _gather, "gram": _gram}


def _inverse(norm: Tensor, eps: float) -> Tensor:
    """1 / norm, and zero with gradient zero where the norm is at most eps."""
    return (norm > eps) / norm.clamp_min(eps)


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32 in matrix products: E_t - E_s would keep three digits of correlations that differ in the third."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
