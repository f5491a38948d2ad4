"""A lesson is what the teacher says of the view, without gradient, wherever it is worked out."""

import pytest
import torch
from torch import nn

from dist_rmd.distill.overlapped import OverlappedTeacher


class Teacher(nn.Module):
    """Logits and features, as networks here return them."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 512), nn.Linear(512, 10)

    def forward(self, view):
        features = self.body(view).relu()
        return self.head(features), features


def test_it_is_what_the_teacher_says():
    teacher, view = Teacher(), torch.randn(32, 64)
    for network in (teacher, teacher.body):
        said, expected = OverlappedTeacher(network, view).result(), network(view)
        torch.testing.assert_close(said, expected)
        assert not any(part.requires_grad for part in (said if isinstance(said, tuple) else (said,)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_is_overwritten_or_read_too_early():
    """Many lessons whose views and results are dropped at once, with other work of both streams' sizes around them."""
    teacher, net = Teacher().cuda().requires_grad_(False), nn.Linear(64, 2048).cuda()
    views = torch.randn(200, 4096, 64, device="cuda")
    expected = torch.stack([teacher(view)[1].double().sum() for view in views])
    found = []
    for number in range(len(views)):
        view = views[number] + 0  # made just now, on the current stream
        lesson = OverlappedTeacher(teacher, view)
        net(view).sum().backward()
        del view
        found.append(lesson.result()[1].double().sum())
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-9, atol=0)
