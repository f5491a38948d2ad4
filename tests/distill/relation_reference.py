"""The relation loss written as in the paper, in float64: values by numpy.corrcoef, gradients by autograd."""

import numpy as np
import torch
from torch import Tensor


def problem(rows: int, seed: int, inputs: int = 5, width: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (rows x inputs), teacher features (rows x width) and the weight (width x inputs) of a linear student."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, inputs)), draw.normal(size=(rows, width)) + 1, draw.normal(size=(width, inputs))


def numpy_relation(teacher: np.ndarray, student: np.ndarray, node: float = 0.8, edge: float = 0.35) -> list[float]:
    """Loss, node and edge: one corrcoef of teacher and student rows together holds E_t, E_s and M."""
    n = len(teacher)
    all_pairs = np.corrcoef(teacher, student)
    edge_norm = np.linalg.norm(all_pairs[:n, :n] - all_pairs[n:, n:])
    node_norm = np.linalg.norm(all_pairs[:n, n:] - np.eye(n))
    return [node * node_norm + edge * edge_norm, node_norm, edge_norm]


def naive_loss(teacher: Tensor, student: Tensor, node: float = 0.8, edge: float = 0.35) -> Tensor:
    """The loss of the whole batch, left to autograd."""
    z_t, z_s = ((x - x.mean(1, keepdim=True)) / (x - x.mean(1, keepdim=True)).norm(dim=1, keepdim=True)
                for x in (teacher, student))  # fmt: skip
    return node * (z_t @ z_s.T - torch.eye(len(z_t))).norm() + edge * (z_t @ z_t.T - z_s @ z_s.T).norm()


def student_gradients(inputs: np.ndarray, teacher: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """d loss / d weight of the linear student, whole batch on one process."""
    parameter = torch.tensor(weight, requires_grad=True)
    naive_loss(torch.tensor(teacher), torch.tensor(inputs) @ parameter.T).backward()
    return parameter.grad.numpy()
