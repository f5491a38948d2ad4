import torch
from torch import nn

from tools.bench_parts.roofline import PASSES, Watched


def test_each_half_of_a_gradient_is_an_operation_with_its_own_floor():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5, bias=False))
    x = torch.randn(6, 2, 8, 8, requires_grad=True)
    net(x).sum().backward()
    expected = [x.grad, *(parameter.grad for parameter in net.parameters())]
    x.grad = None
    net.zero_grad()
    with Watched("cpu", {tuple(parameter.shape) for parameter in net.parameters()}) as watched:
        net(x).sum().backward()
    for ours, theirs in zip([x.grad, *(parameter.grad for parameter in net.parameters())], expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    convolutions = [each for each in watched.operations if each.layer.startswith("2 -> 4 channels")]
    assert [each.direction for each in convolutions] == [*PASSES]
    flops, moved = 2 * 6 * 4 * 16 * 2 * 9, 4 * (6 * 2 * 64 + 4 * 2 * 9 + 6 * 4 * 16)
    assert [(each.flops, each.bytes) for each in convolutions] == [(flops, moved)] * 3
    assert convolutions[0].floor(matrix=flops / 3, memory=moved) == 3
    assert convolutions[0].floor(matrix=flops, memory=moved / 2) == 2
    linear = [each for each in watched.operations if each.layer == "linear, 5 x 6 x 64"]
    assert sorted(each.direction for each in linear) == sorted(PASSES)
    (relu,) = [each for each in watched.operations if each.kind == "ReLU" and each.bytes == 2 * 4 * 6 * 4 * 16]
    assert (relu.flops, relu.direction) == (0, "")


def test_the_fused_optimizer_writes_weights_and_momenta_and_reads_gradients_too():
    weight = nn.Parameter(torch.ones(100))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    for _ in range(2):
        weight.grad = torch.ones(100)
        with Watched("cpu", set()) as watched:
            optimizer.step()
    (step,) = [each for each in watched.operations if each.kind.startswith("optimizer")]
    assert step.bytes == 5 * 400
