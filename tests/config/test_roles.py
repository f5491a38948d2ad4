"""What a key's role says is so: keys of artefacts change if and only if it says so, for every key that there is."""

import dataclasses
import functools
import shutil
import typing

import numpy as np
import pytest
import torch
from support import small, trackers

from dist_rmd.config import Config, Role, determinants, differences, leaves, sections, stated
from dist_rmd.config.key_types import EncoderName
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.distributed.processes import World
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.pipeline import resolved
from dist_rmd.registry import available
from dist_rmd.run import artefacts
from dist_rmd.stages import dividemix
from dist_rmd.stages._label_free import LabelFree

DEFAULTS = sections.parse(None)
NEEDED = (*typing.get_args(LabelFree), "teacher", "division", "relabel", "inversion")
EVERYTHING = f"stages=[{','.join(dict.fromkeys([*NEEDED, *available('stages')]))}]"
LABEL_BY_LABEL = (EVERYTHING.replace(",dividemix", "").replace(",sop", ""),)  # the stages that take all keys of `task`
OPENSET = ("noise.rate=0", "noise.kind=openset", "noise.rho1=0.5", "noise.rho2=0.5")
CHANGES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "data.path": ((), "data.path={place}/moved/digits"),
    "noise.kind": ((), "noise.kind=pairflip"),
    "noise.class_map": (("noise.kind=asymmetric", "noise.class_map={9: 1}"), "noise.class_map={8: 1}"),
    "noise.rho1": (OPENSET, "noise.rho1=0.25"),
    "noise.rho2": (OPENSET, "noise.rho2=0.25"),
    "noise.keep_label": (OPENSET, "noise.keep_label=true"),
    "noise.file": (
        ("noise.kind=file", "noise.file={place}/labels.csv", "noise.column=one"),
        "noise.file={place}/moved/labels.csv",
    ),
    "noise.column": (("noise.kind=file", "noise.file={place}/labels.csv", "noise.column=one"), "noise.column=two"),
    **{
        f"task.{name}": (LABEL_BY_LABEL, f"task.{name}={value}")
        for name, value in {"mixup": 1, "kd": 0.5, "average": 0.5, "divided": "true", "relabel": "true"}.items()
    },
    "out": ((), "out={place}/elsewhere"),
    "stages": ((), "stages=[simsiam,classifier,rgrl]"),
    "inputs": (("stages=[vkd]", "inputs.teacher={place}/taught"), "inputs.teacher={place}/moved/taught/teacher.pt"),
    "war.vectors": (("war.vectors={place}/vectors.npy",), "war.vectors={place}/moved/vectors.npy"),
    "relabel.file": (("relabel.file={place}/vectors.npy",), "relabel.file={place}/moved/vectors.npy"),
    "reweight.warmup": (("task.epochs=5",), "reweight.warmup=2"),
    "loss.name": ((), "loss.name=gce"),
    "loss.weights": (("loss.name=nce+agce",), "loss.weights.agce=4"),
    "loss.options": (("loss.name=gce",), "loss.options.q=0.5"),
    "speed.cuda_graphs": (("speed.compile=true", "precision=fp32"), "speed.cuda_graphs=true"),
    "task.patience": (("data.holdout=0.2",), "task.patience=2"),
    "probe.patience": (("data.holdout=0.2",), "probe.patience=2"),
    **{
        f"{stage}.teacher": ((f"stages=[simsiam,simclr,{stage}]",), f"{stage}.teacher=simclr")
        for stage in ("probe", "relabel")
    },
    "dividemix.teacher": (
        ("stages=[simsiam,simclr,dividemix]", "dividemix.relation=1"),
        "dividemix.teacher=simclr",
    ),
    "relation.teacher": (("stages=[simsiam,simclr,rgrl]",), "relation.teacher=simclr"),
    **{f"relation.{weight}": (("relation.form=dist",), f"relation.{weight}=0.5") for weight in ("inter", "intra")},
    "relation.form": ((), "relation.form=dist"),
    "relabel.student": (("stages=[simsiam,classifier,elr,relabel]",), "relabel.student=elr"),
    "weights.mean": ((), "weights.mean=[0.5,0.5,0.5]"),
    "weights.std": ((), "weights.std=[0.5,0.5,0.5]"),
    "log.also": ((), "log.also=[notepad]"),
    "weights.side": ((), "weights.side=64"),
    "teacher.per_class": ((), "teacher.per_class=20"),
    **{key: ((EVERYTHING.replace("dividemix,", "").replace("sop,", ""),), None) for key in dividemix.UNUSED},
}
"""key -> settings under which another value has a meaning, and that value; None: changed by its type, as other keys"""


def keys() -> list[str]:
    """Every key that `sections.parse` knows; of a table, the table's."""
    found = []
    for name, value in DEFAULTS.tree.items():
        section = dataclasses.is_dataclass(value)
        found += [f"{name}.{field.name}" for field in dataclasses.fields(value)] if section else [name]
    return found


def owner(key: str) -> tuple[type, str]:
    """The dataclass that has the key, and the key's name there."""
    section, _, name = key.rpartition(".")
    return (type(DEFAULTS.tree[section]), name) if section else (Config, name)


def role(key: str) -> Role:
    return stated(*owner(key)) or Role.RESULT


def another(kind: type, name: str, old: object) -> object:
    """Another valid value of the key."""
    hint = typing.get_type_hints(kind)[name]
    if type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return next(value for value in reversed(typing.get_args(hint)) if value != old)
    if typing.get_origin(hint) is tuple:
        return (*old, 7)
    if hint is bool:
        return not old
    if hint is EncoderName:
        return "vgg13"
    if issubclass(hint, int):
        return (old or 0) + 1
    if issubclass(hint, float):
        return old / 2 if old else 0.1
    return f"{old}-2"


def changed(config: Config, key: str) -> Config:
    """The same but for another value of the key."""
    section, _, name = key.rpartition(".")
    kind, _ = owner(key)
    if not section:
        return dataclasses.replace(config, **{name: another(kind, name, config.tree[name])})
    values = config.tree[section]
    values = dataclasses.replace(values, **{name: another(kind, name, getattr(values, name))})
    if section in config.sections:
        return dataclasses.replace(config, sections={**config.sections, section: values})
    return dataclasses.replace(config, **{section: values})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, labels of one's own and a teacher, and all of them once more in another folder."""
    folder = tmp_path_factory.mktemp("place")
    data = open_dataset(small.prepare(folder, open_images=100))
    rows = [f"{file},{number % 10},{number % 7}" for number, file in enumerate(data.files("train"))]
    (folder / "labels.csv").write_text("\n".join(["file,one,two", *rows]))
    net = ImageClassifier(encoder("resnet10", 8), 10)
    taught = {
        "stage": "teacher", "key": "0123456789abcdef", "classes": list(data.classes), "side": data.side,
        "mean": list(data.mean), "std": list(data.std), "model": {"name": "resnet10", "width": 8},
        "encoder": net.encoder.state_dict(), "head": net.head.state_dict(),
    }  # fmt: skip
    artefacts.save(folder / "taught" / "teacher" / "artefact.pt", folder / "shared.pt", taught)
    (folder / "moved" / "taught").mkdir(parents=True)
    shutil.copy(folder / "shared.pt", folder / "moved" / "taught" / "teacher.pt")
    np.save(folder / "vectors.npy", np.eye(10))
    for file in ("labels.csv", "vectors.npy"):
        shutil.copy(folder / file, folder / "moved")
    shutil.copytree(folder / "digits", folder / "moved" / "digits")
    with trackers.known():
        yield folder


@functools.cache
def configured(place, settings):
    places = [f"data.path={place}/digits", f"out={place}/runs"]
    words = [*small.RECIPE, "probe.batch_size=32", EVERYTHING, *places, *settings]
    return sections.parse(None, [word.replace("{place}", str(place)) for word in words])


@functools.cache
def checked(place, settings, world):
    return resolved.check(configured(place, settings), world=world)


def test_every_key_of_the_run_states_its_role():
    of_stages = sections.sections()
    unstated = [key for key in keys() if key.partition(".")[0] not in of_stages and stated(*owner(key)) is None]
    assert unstated == []


@pytest.mark.parametrize("key", keys())
def test_keys_of_artefacts_change_if_and_only_if_the_role_says_so(place, key):
    device, ranks = ("cuda", 1) if key == "speed.cuda_graphs" else ("cpu", 2)
    world = World(0, ranks, 0, ranks, torch.device(device))

    settings, change = CHANGES.get(key, ((), None))
    other = configured(place, (*settings, change)) if change else changed(configured(place, settings), key)
    before, after = checked(place, settings, world), resolved.check(other, world=world)
    assert {found.role for found in differences(before.config.leaves, after.config.leaves)} == {role(key)}
    new = {name for name in after.keys if after.keys[name] != before.keys[name]}
    assert bool(new) == role(key).is_learned
    if role(key) is Role.LABELS or key.startswith("noise."):
        given = {name for name, stage in after.stages.items() if stage.labels == "given"}
        assert not new or given <= new
    elif new and not key.startswith(("dist.", "precision")):  # these are for all stages alike
        reading = set()
        for name, stage in after.stages.items():
            needs = stage.needs(stage.scope(after.config))
            if stage.scope(before.config) != stage.scope(after.config) or reading & {*needs}:
                reading.add(name)
        assert new == reading


def test_differences_name_both_values_and_the_role():
    old, new = (
        sections.parse(None, words)
        for words in (["loss.name=gce", "log.every=1"], ["loss.name=gce", "loss.options.q=0.5", "model.width=8"])
    )
    changes = differences(old.leaves, new.leaves)
    assert [str(change) for change in changes] == [
        "log.every: 1 -> 50", "loss.options.q: absent -> 0.5", "model.width: 64 -> 8",
    ]  # fmt: skip
    assert [change.role for change in changes] == [Role.EXECUTION, Role.RESULT, Role.NETWORK]


def test_a_section_that_sets_an_inherited_key_anew_keeps_its_role():
    @dataclasses.dataclass(frozen=True)
    class Own(sections.sections()["task"]):
        seed: int = 3
        rounds: int = 2

    assert (stated(Own, "seed"), stated(Own, "rounds")) == (Role.SEED, None)
    assert dict(leaves(Own()))["seed"] == (3, Role.SEED)


def test_a_key_that_was_added_later_is_in_keys_of_artefacts_only_where_it_is_set():
    before, after = (sections.parse(None, words).sections["task"] for words in ([], ["task.optimizer=adamw"]))
    assert not {"optimizer", "patience"} & determinants(before).keys()
    assert determinants(after) == {**determinants(before), "optimizer": "adamw"}
