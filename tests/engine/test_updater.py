import pytest
import torch
from torch import nn

from dist_rmd.config import Optimization
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater, resolve_precision

CPU = torch.device("cpu")
ADAM = {"optimizer": "adam", "lr": 0.03, "constant_lr": True}


def move(updater, loss, clock):
    updater.backward(loss, clock)
    return updater.step()


def test_equals_sgd_written_out():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    config = Optimization(epochs=2, lr=0.1, momentum=0.9, weight_decay=0.01, schedule="constant")
    updater, clock = Updater([{"params": [weight]}], config, 2, CPU, "fp32"), Clock()
    expected, velocity = weight.detach().clone(), torch.zeros(2)
    for _ in range(4):
        move(updater, (weight**2).sum(), clock)
        velocity = 0.9 * velocity + (2 * expected + 0.01 * expected)
        expected = expected - 0.1 * velocity
        clock.tick()
    torch.testing.assert_close(weight.detach(), expected)


def test_constant_group_keeps_its_learning_rate():
    moving, fixed = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [{"params": [moving]}, {"params": [fixed], "constant_lr": True}]
    config = Optimization(epochs=1, lr=0.1, momentum=0, weight_decay=0, schedule="cosine")
    updater = Updater(groups, config, 2, CPU, "fp32")
    move(updater, (moving + fixed).sum(), Clock(step=1))
    assert moving.item() == pytest.approx(1 - 0.05)
    assert fixed.item() == pytest.approx(1 - 0.1)


def test_a_group_of_adams_is_adam_at_its_own_rate_and_the_rest_is_sgd():
    """Written out as in Kingma & Ba 2015, algorithm 1; neither the schedule nor weight decay is for it."""
    plain, adaptive = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([1.0, -2.0]))
    config = Optimization(epochs=2, lr=0.1, momentum=0, weight_decay=0.01, schedule="cosine")
    groups = [{"params": [plain]}, {"params": [adaptive], **ADAM}]
    updater, clock = Updater(groups, config, 2, CPU, "fp32"), Clock()
    sgd, adam, m, v = plain.detach().clone(), adaptive.detach().clone(), torch.zeros(2), torch.zeros(2)
    for step in range(1, 5):
        move(updater, (plain**2).sum() + (adaptive**2).sum(), clock)
        sgd = sgd - updater.readings()["train/lr"] * (2 * sgd + 0.01 * sgd)
        gradient = 2 * adam
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        adam = adam - 0.03 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        clock.tick()
    torch.testing.assert_close(plain.detach(), sgd)
    torch.testing.assert_close(adaptive.detach(), adam)
    assert updater.readings()["train/lr"] < 0.05


def test_equals_nesterovs_momentum_written_out():
    """Sutskever et al. 2013 as torch has it: v = m v + g, w = w - lr (g + m v)."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    config = Optimization(epochs=2, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, schedule="cosine")
    updater, clock = Updater([{"params": [weight]}], config, 2, CPU, "fp64"), Clock()
    expected, velocity = weight.detach().clone(), torch.zeros(2).double()
    for _ in range(4):
        move(updater, (weight**2).sum(), clock)
        gradient = 2 * expected + 0.01 * expected
        velocity = 0.9 * velocity + gradient
        expected = expected - updater.readings()["train/lr"] * (gradient + 0.9 * velocity)
        clock.tick()
    torch.testing.assert_close(weight.detach(), expected)


def test_equals_adamw_written_out():
    """Loshchilov & Hutter 2019, algorithm 2: weight decay apart from the gradient, both at the schedule's rate."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    config = Optimization(epochs=2, lr=0.1, optimizer="adamw", weight_decay=0.05, schedule="cosine")
    updater, clock = Updater([{"params": [weight]}], config, 2, CPU, "fp64"), Clock()
    expected, m, v = weight.detach().clone(), torch.zeros(2).double(), torch.zeros(2).double()
    for step in range(1, 5):
        move(updater, (weight**2).sum(), clock)
        lr, gradient = updater.readings()["train/lr"], 2 * expected
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        adam = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        expected = expected - lr * (0.05 * expected + adam)
        clock.tick()
    torch.testing.assert_close(weight.detach(), expected)
    assert lr < 0.05


@pytest.mark.parametrize("group", [{}, {"optimizer": "adam"}, {"optimizer": "adamw"}])
def test_only_what_is_to_move_has_a_gradient_and_moves(group):
    nets = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    config = Optimization(epochs=1, lr=0.1, momentum=0.9, weight_decay=0.1, schedule="constant")
    updater = Updater([{"params": list(net.parameters()), **group} for net in nets], config, 1, CPU, "fp32")

    def step(moved):
        updater.backward(nets[1](nets[0].weight.T * nets[0].weight).sum(), Clock(), moved)
        assert [net.weight.grad is not None for net in nets] == [moved in (None, net) for net in nets]
        before = [net.weight.detach().clone() for net in nets]
        updater.step()
        return [not torch.equal(net.weight, old) for net, old in zip(nets, before, strict=True)]

    assert step(None) == [True, True]  # momentum, which must not move what is not to move
    assert step(nets[1]) == [False, True]
    assert step(nets[0]) == [True, False]


def test_a_rate_of_its_own_follows_the_schedule_of_all():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": weights[:1], "lr": 0.4}, {"params": weights[1:], "optimizer": "adam", "lr": 0.02}]
    updater = Updater(groups, Optimization(epochs=1, lr=0.1, schedule="cosine"), 2, CPU, "fp32")
    move(updater, sum(weights).sum(), Clock(step=1))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in updater.optimizers.values()]
    assert rates == pytest.approx([0.2, 0.01])


def test_adam_alone_needs_no_sgd():
    weight = nn.Parameter(torch.ones(1))
    updater = Updater([{"params": [weight], "optimizer": "adam"}], Optimization(lr=0.1), 1, CPU, "fp16")
    move(updater, weight.sum(), Clock())
    assert weight.item() == pytest.approx(0.9)
    assert updater.readings()["train/lr"] == 0.1


@pytest.mark.parametrize("infinite", ["plain", "adaptive"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp64"])
def test_a_bad_gradient_of_either_optimizer_moves_neither_and_leaves_no_trace(precision, infinite):
    def weights():
        return {"plain": nn.Parameter(torch.ones(4)), "adaptive": nn.Parameter(torch.ones(4))}

    def made(weights):
        groups = [{"params": [weights["plain"]]}, {"params": [weights["adaptive"]], **ADAM}]
        return Updater(groups, Optimization(schedule="constant", momentum=0.9), 1, CPU, precision)

    def step(updater, weights, **factors):
        return move(updater, sum((factors.get(name, 1) * weight).sum() for name, weight in weights.items()), Clock())

    disturbed, smooth = weights(), weights()
    updater = made(disturbed)
    step(updater, disturbed, **{infinite: float("inf")})
    assert all(weight.tolist() == [1, 1, 1, 1] for weight in disturbed.values())
    other = made(smooth)
    for _ in range(2):
        step(updater, disturbed)
        step(other, smooth)
    for name, weight in smooth.items():
        assert (weight < 1).all()
        assert torch.equal(weight, disturbed[name])
    if precision == "fp16":
        assert updater.scaler.get_scale() == other.scaler.get_scale() / 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_bounds_gradients_of_both_optimizers(precision):
    plain, adaptive = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    config = Optimization(lr=1.0, momentum=0, weight_decay=0, schedule="constant", grad_clip=0.5)
    updater = Updater([{"params": [plain]}, {"params": [adaptive], **ADAM}], config, 1, CPU, precision)
    assert move(updater, (3 * plain + 4 * adaptive).sum(), Clock())["grad_norm"].item() == pytest.approx(5)
    assert plain.item() == pytest.approx(-0.3)
    assert updater.optimizers["adam"].state[adaptive]["exp_avg"].item() == pytest.approx(0.1 * 0.4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp64"])
def test_clipping_bounds_the_step_of_all_parameters_together(precision):
    """In true units, whatever fp16 has scaled the loss by."""
    weights = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(9))]
    config = Optimization(lr=1.0, momentum=0, weight_decay=0, schedule="constant", grad_clip=0.5)
    updater = Updater([{"params": weights}], config, 1, CPU, precision)
    with updater.autocast():
        loss = sum((slope * weight).sum() for slope, weight in zip((3, 64), weights, strict=True))
    move(updater, loss, Clock())
    slopes = torch.cat([torch.full((4,), 3.0), torch.full((9,), 64.0)])
    torch.testing.assert_close(torch.cat([w.detach() for w in weights]), -0.5 * slopes / slopes.norm())


def test_clipping_leaves_small_gradients_alone():
    weight = nn.Parameter(torch.zeros(4))
    config = Optimization(lr=1.0, momentum=0, weight_decay=0, schedule="constant", grad_clip=5)
    move(Updater([{"params": [weight]}], config, 1, CPU, "fp32"), weight.sum(), Clock())
    assert weight.tolist() == [-1, -1, -1, -1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_norm_shown_is_that_before_clipping(precision):
    weight = nn.Parameter(torch.zeros(4))
    updater = Updater([{"params": [weight]}], Optimization(grad_clip=0.5), 1, CPU, precision)
    assert move(updater, (3 * weight).sum(), Clock())["grad_norm"].item() == pytest.approx(6)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp64"])
def test_a_gradient_that_is_not_finite_moves_nothing(precision, bad, clip):
    weight = nn.Parameter(torch.ones(4))
    updater = Updater([{"params": [weight]}], Optimization(schedule="constant", grad_clip=clip), 1, CPU, precision)
    shown = move(updater, (weight * bad).sum(), Clock())
    assert shown["amp_skipped"] == 1 if precision == "fp16" else not shown["grad_norm"].isfinite()
    assert weight.tolist() == [1, 1, 1, 1]
    move(updater, weight.sum(), Clock())
    assert weight.isfinite().all()
    assert (weight != 1).all()


def test_settings_are_those_of_the_configuration_not_of_the_state():
    weight = nn.Parameter(torch.ones(4))
    groups = [{"params": [weight], "constant_lr": True}]
    old, new = (
        Updater([dict(group) for group in groups], Optimization(weight_decay=decay, momentum=momentum), 1, CPU, "fp32")
        for decay, momentum in ((0.1, 0.9), (0.0, 0.5))
    )
    move(old, weight.sum(), Clock())
    new.load_state_dict(old.state_dict())
    (group,) = new.optimizers["optimizer"].param_groups
    assert (group["weight_decay"], group["momentum"]) == (0.0, 0.5)
    moments = [updater.optimizers["optimizer"].state[weight]["momentum_buffer"] for updater in (new, old)]
    assert torch.equal(*moments)


def test_adams_rate_is_that_of_the_configuration_too():
    weights = [nn.Parameter(torch.ones(4)) for _ in range(2)]
    old, new = (
        Updater([{"params": weights[:1]}, {"params": weights[1:], **ADAM, "lr": rate}], Optimization(), 1, CPU, "fp32")
        for rate in (0.1, 0.2)
    )
    move(old, sum(weight.sum() for weight in weights), Clock())
    new.load_state_dict(old.state_dict())
    assert new.optimizers["adam"].param_groups[0]["lr"] == 0.2


def test_nothing_moves_before_all_ranks_have_agreed():
    weight = nn.Parameter(torch.ones(4))
    updater = Updater([{"params": [weight]}], Optimization(), 1, CPU, "fp32")
    updater.backward(weight.sum(), Clock())
    assert weight.tolist() == [1, 1, 1, 1]
    updater.step()
    assert (weight < 1).all()
    assert weight.grad is None


def test_fp16_skips_a_step_with_infinite_gradients_and_lowers_the_scale():
    weight = nn.Parameter(torch.ones(1))
    updater = Updater([{"params": [weight]}], Optimization(schedule="constant"), 1, CPU, "fp16")
    before = updater.scaler.get_scale()
    counted = move(updater, (weight * float("inf")).sum(), Clock())
    assert {name: value.item() for name, value in counted.items()} == {"grad_norm": 0, "amp_skipped": 1}
    assert weight.item() == 1
    assert updater.scaler.get_scale() == before / 2
    assert updater.readings()["train/amp_scale"] == before / 2


def test_a_skipped_first_step_leaves_no_trace_in_the_momentum():
    for _ in range(5):  # what is wrong here depends on what memory happens to hold
        rubbish = [torch.full((4096,), float("nan")) for _ in range(8)]
        del rubbish
        weight = nn.Parameter(torch.ones(4096))
        config = Optimization(lr=0.1, momentum=0.9, weight_decay=0, schedule="constant")
        updater = Updater([{"params": [weight]}], config, 1, CPU, "fp16")
        move(updater, (weight * float("inf")).sum(), Clock())
        move(updater, weight.sum(), Clock())
        torch.testing.assert_close(weight.detach(), torch.full((4096,), 0.9))


@pytest.mark.parametrize("group", [{}, ADAM])
def test_state_goes_on_bit_for_bit(group):
    config = Optimization(epochs=3, lr=0.1, schedule="cosine")

    def made(*weights):
        return Updater([{"params": [weights[0]]}, {"params": [weights[1]], **group}], config, 2, CPU, "fp32")

    def steps(weights, updater, clock, count):
        for _ in range(count):
            move(updater, sum((weight.sin() ** 2).sum() for weight in weights), clock)
            clock.tick()

    straight, first = ([nn.Parameter(torch.tensor([0.3, 0.7])) for _ in range(2)] for _ in range(2))
    steps(straight, made(*straight), Clock(), 6)
    updater, clock = made(*first), Clock()
    steps(first, updater, clock, 3)
    second = [nn.Parameter(weight.detach().clone()) for weight in first]
    resumed = made(*second)
    resumed.load_state_dict(updater.state_dict())
    steps(second, resumed, clock, 3)
    assert all(map(torch.equal, second, straight))


def test_precision_follows_the_device():
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("auto", torch.device("cuda")) == "bf16"
    assert resolve_precision("fp16", CPU) == "fp16"
