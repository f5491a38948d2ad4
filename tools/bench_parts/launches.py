"""How many operations the host hands to the device in a training step, for every stage.

Where a step is short, a GPU waits for the host: each operation costs the host some microseconds.  They are counted on
any device, since torch dispatches the same operations; kernels that a library starts within one are not seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from dist_rmd.config import sections
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.engine.clock import Clock
from dist_rmd.pipeline.resolved import check
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.registry import available, lookup
from dist_rmd.stages.base import ComputationStage, TrainingStage
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table

ALLOCATIONS = ("empty", "new_empty", "detach", "alias", "_local_scalar_dense")
"""operations that start nothing on the device, apart from views and torch's marks for profilers"""


class Calls(TorchDispatchMode):
    """Counts operations that reach the device's backend: all of them, and those that start work there."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.launches = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        name = function.overloadpacket.__name__
        self.launches += not (function.is_view or name.startswith(ALLOCATIONS) or function.namespace == "profiler")
        return function(*args, **(kwargs or {}))


def measure(settings: Settings) -> Iterator[Table]:
    chosen = ("simsiam", "rgrl") if settings.quick else available("stages")
    trained = [name for name in chosen if issubclass(lookup("stages", name), TrainingStage)]
    network, batch = "{}, width {}".format(*settings.network), 32
    yield Table(
        "Operations of a step",
        f"{network}, batch {batch}, {settings.precision}, nothing compiled, one rank: losses, backward, optimizer and "
        "what the stage does after a step; without the views of the images. launches: without views of memory and "
        "allocations, which start nothing on a GPU.",
        [Row(name, **counted(settings, name, batch)) for name in trained],
    )


def counted(settings: Settings, name: str, batch: int) -> dict[str, Any]:
    """The cells of a row."""
    try:
        calls = of_a_step(session(settings, name, batch))
    except Exception as error:
        return {"absent": f"failed: {type(error).__name__}: {error}".partition("\n")[0]}
    return {"facts": {"operations": f"{calls.calls:,}", "launches": f"{calls.launches:,}"}}


def session(settings: Settings, name: str, batch: int, options: Sequence[str] = ()) -> StageSession:
    """The stage with what it needs of earlier stages, whose networks are untrained.  options: further settings."""
    encoder, width = settings.network
    classes = len(open_dataset(settings.data).classes)
    overrides = [
        f"device={settings.device}", f"data.path={settings.data}", f"out={settings.scratch}", "noise.rate=0.4",
        f"data.per_class={-(-10 * batch // classes)}", "data.reader=memory", "data.compile_views=false",
        f"precision={settings.precision}", f"model.name={encoder}", f"model.width={width}",
        f"teacher.model={encoder}", f"teacher.width={width}",
    ]  # fmt: skip
    overrides += [*(f"{recipe}.batch_size={batch}" for recipe in recipes(name)), *options]
    plan = check(sections.parse(None, [*overrides, f"stages=[{','.join(chain(name))}]"]))
    made: dict[str, Any] = {}
    source = plan.source()
    for each, kind in plan.stages.items():
        stage = placed(plan, each, made)
        if each == name:
            assert isinstance(stage, TrainingStage)
            return StageSession(plan, stage, source)
        if isinstance(stage, ComputationStage):
            stage.pretend(plan.training(kind))
        chance = {"epoch": 0, "step": 0, "test/top1": 100 / classes}
        made[each] = plan.artefact(stage, plan.keys[each], [chance])
    raise AssertionError(name)


def chain(name: str) -> list[str]:
    """The stage and those that it needs, in the order in which they run."""
    kind = lookup("stages", name)
    needed = kind.needs(kind.scope(sections.parse(None, [])))
    return list(dict.fromkeys([*(earlier for each in needed for earlier in chain(each)), name]))


def recipes(name: str) -> set[str]:
    """The sections whose batch size counts."""
    return {kind.recipe for each in chain(name) if issubclass(kind := lookup("stages", each), TrainingStage)}


def of_a_step(session: StageSession) -> Calls:
    """The operations of the second step."""
    clock = replace(session.clock)
    session.stage.start_epoch()
    session.net.train()
    batches = session.batches.epoch(0)
    for batch in (next(batches), next(batches)):
        with Calls() as calls:
            step(session, batch, clock)
    return calls


def step(session: StageSession, batch: Batch, clock: Clock) -> None:
    """Losses, backward, optimizer, and what the stage does after a step."""
    stage, updater = session.stage, session.updater
    with updater.autocast():
        loss = stage.losses(session.net, batch)["loss"]
    updater.backward(loss, clock, stage.trained(batch))
    updater.step()
    clock.tick()
    stage.after_step(clock)
