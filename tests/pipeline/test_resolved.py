import copy
import dataclasses
import shutil

import numpy as np
import pytest
import torch
from support import small

from dist_rmd.config import sections
from dist_rmd.distributed.processes import World
from dist_rmd.errors import ConfigError, DataError, UserError
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.pipeline import resolved
from dist_rmd.run import artefacts, start

STAGES = ("simsiam", "classifier", "rgrl", "teacher")
STUDENTS = STAGES[:3]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"), open_images=40)


@pytest.fixture(scope="module")
def unverified(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"), verified=False)


@pytest.fixture
def planned(data, tmp_path):
    def planned(*overrides, force=False):
        arguments = [*small.RECIPE, f"data.path={data}", f"out={tmp_path}", f"stages=[{','.join(STAGES)}]", *overrides]
        return resolved.check(sections.parse(None, arguments), force)

    return planned


def test_a_plan_names_everything_and_writes_nothing(planned, tmp_path):
    made = planned("name=b")
    assert made.folder.path == tmp_path / "b"
    assert tuple(made.stages) == STAGES
    assert (made.classes, made.dataset.side, len(made.labels)) == (10, 8, 150)
    assert made.precision == "fp32"
    assert made.changes == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "other"),
    [
        ("seed=1", STAGES),
        ("simsiam.seed=1", ("simsiam", "rgrl")),
        ("seed=1 simsiam.seed=0", ("classifier", "rgrl", "teacher")),  # several seeds share one teacher
        ("simsiam.seed=0 task.seed=0 teacher.seed=0", ()),  # the run's own, said otherwise
        ("relation.teacher=random", ("rgrl",)),
        ("data.holdout=0.1", ("classifier", "rgrl")),  # no given labels, none to hold out
        ("model.width=16", STUDENTS),
        ("model.name=resnet18", STUDENTS),
        ("teacher.model=vgg13", ("teacher",)),
        ("teacher.width=16", ("teacher",)),
        ("teacher.lr=0.5", ("teacher",)),
        ("loss.name=gce", ("classifier", "rgrl")),
        ("data.per_class=14", STAGES),
        ("precision=fp16", STAGES),
        ("augment.flip=false", STAGES),
        ("simsiam.lr=0.5", ("simsiam", "rgrl")),  # the network that rgrl learns from is another one
        ("task.lr=0.5", ("classifier", "rgrl")),
        ("noise.rate=0.1", ("classifier", "rgrl")),
        ("noise.seed=1", ("classifier", "rgrl")),
        ("noise.kind=pairflip", ("classifier", "rgrl")),
        ("noise.kind=asymmetric noise.class_map.9=1", ("classifier", "rgrl")),
        ("noise.kind=asymmetric noise.class_map=blocks", ("classifier", "rgrl")),
        ("noise.exact=false", ("classifier", "rgrl")),
        ("noise.include_true=true", ("classifier", "rgrl")),
        ("relation.k=0.5", ("rgrl",)),
        ("log.every=7", ()),
        ("checkpoint.minutes=1", ()),
        ("data.reader=memory", ()),
        ("dist.sync_batchnorm=false", ()),  # with one rank
        ("dist.static_graph=true speed.compile=true", ()),
        ("dist.compress=bf16", STAGES),
        ("stages=[simsiam,rgrl]", ("classifier", "teacher")),
    ],
)
def test_keys_follow_what_determines_a_result_and_nothing_else(planned, override, other):
    before, after = planned().keys, planned(*override.split()).keys
    assert tuple(name for name in STAGES if before[name] != after.get(name)) == other


@pytest.mark.parametrize(
    ("override", "other"),
    [
        ("noise.rho2=0", ("vkd", "dfnd")),  # which images there are
        ("noise.seed=1", ("vkd", "dfnd")),
        ("noise.include_true=true", ("vkd",)),  # which labels these have
        ("noise.keep_label=true", ("vkd",)),
        ("data.holdout=0.1", ("vkd",)),
        ("data.skip=1", ("vkd", "dfnd")),
        ("teacher.lr=0.5", ("teacher", "vkd", "dfnd")),
        ("student.lr=0.5", ("vkd", "dfnd")),
        ("student.seed=1", ("vkd", "dfnd")),
        ("vkd.alpha=0.5", ("vkd",)),
        ("dfnd.keep=0.5", ("dfnd",)),
        ("dfnd.accuracy=0.5", ("dfnd",)),
        ("loss.name=gce", ()),
        ("task.lr=0.5", ()),
    ],
)
def test_keys_of_students_follow_their_teacher_and_images(planned, pooled, override, other):
    """DFND does not look at labels, so it does not depend on them."""
    noise = ("noise.kind=openset", "noise.rate=0", "noise.rho1=0.5", "noise.rho2=0.4")
    common = (f"data.path={pooled}", "stages=[teacher,vkd,dfnd]", *noise)
    before, after = planned(*common).keys, planned(*common, override).keys
    assert tuple(name for name in before if before[name] != after[name]) == other


def test_cuda_graphs_are_refused_where_there_is_no_gpu(planned):
    with pytest.raises(ConfigError, match=r"speed\.cuda_graphs=true is for one process on a GPU.* 1 rank\(s\) on cpu"):
        planned("speed.compile=true", "speed.cuda_graphs=true")


def test_keys_do_not_follow_the_number_of_ranks(planned):
    made = planned()
    for world in (World(0, 2, 0, 2, torch.device("cpu")), World(1, 3, 1, 3, torch.device("cpu"))):
        assert dataclasses.replace(made, world=world).keys == made.keys


def test_keys_follow_it_where_the_statistics_of_batches_do(planned):
    made = planned("dist.sync_batchnorm=false")
    worlds = [World(0, size, 0, size, torch.device("cpu")) for size in (1, 2, 3)]
    keys = [dataclasses.replace(made, world=world).keys for world in worlds]
    assert all(len({key[name] for key in keys}) == 3 for name in STAGES)


def test_what_is_held_out_is_not_trained_on(planned):
    made = planned("data.holdout=0.2")
    stages = made.stages
    simsiam, classifier, teacher = (made.training(stages[name]) for name in ("simsiam", "classifier", "teacher"))
    held_out = made.validation(stages["classifier"])
    assert held_out is not None
    assert len(simsiam) == len(teacher) == 150
    assert len(classifier) + len(held_out) == 150
    assert not set(classifier.indices) & set(held_out.indices)
    assert made.validation(stages["simsiam"]) is made.validation(stages["teacher"]) is None
    assert planned().validation(stages["classifier"]) is None


def test_a_teacher_learns_the_true_labels_whatever_the_noise(planned):
    made = planned("noise.rate=0.4")
    teacher, classifier = (made.training(made.stages[name]) for name in ("teacher", "classifier"))
    true = made.dataset.labels("train")
    assert np.array_equal(teacher.given, true[teacher.indices])
    assert np.array_equal(teacher.indices, classifier.indices)
    assert np.mean(classifier.given != true[classifier.indices]) == pytest.approx(0.4)


def test_its_key_follows_the_true_labels(planned):
    made = planned()
    other = copy.deepcopy(made.dataset)
    other.labels("train")[:2] = other.labels("train")[1::-1]  # the same images, two labels exchanged
    assert (made.dataset.labels("train")[:2] != other.labels("train")[:2]).all()
    again = resolved.check(made.config, dataset=other)
    assert made.dataset.hashes == other.hashes
    assert again.keys["teacher"] != made.keys["teacher"]
    assert again.keys["simsiam"] == made.keys["simsiam"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages=[]", r"stages=\[\]: name at least one"),
        ("stages=[simsiam,simsiam]", "each one once"),
        ("stages=[rgrl,simsiam]", "stage rgrl needs simsiam before it"),
        ("task.batch_size=151", r"task\.batch_size=151.*at most the 150 training images"),
        ("simsiam.batch_size=1", r"simsiam\.batch_size=1: must be at least 2"),
        ("loss.options.q=2", r"loss\.options of ce"),
        ("noise.kind=file", r"needs noise\.file"),
        ("noise.kind=asymmetric", r"of digits needs a noise\.class_map"),
        ("noise.kind=asymmetric noise.class_map=cifar10", r"noise\.class_map speaks of a class truck"),
        ("noise.kind=asymmetric noise.class_map.9=10", r"noise\.class_map={9: 10}: the classes are 0\.\.9"),
    ],
)
def test_what_cannot_work_is_found_before_work(planned, override, words):
    with pytest.raises(ConfigError, match=words):
        planned(*override.split())


def test_labels_of_a_file_are_found_again_by_content(planned, tmp_path):
    """Whoever is given the labels of a run reuses its artefacts; what stands in one column is not another's."""
    made = planned("noise.kind=pairflip")
    made.labels.save(tmp_path / "shared.npz")
    again = planned("noise.kind=file", f"noise.file={tmp_path / 'shared.npz'}")
    assert again.keys == made.keys
    assert again.labels.origin == made.labels.origin
    rows = [f"{file},{number % 10},{number % 7}" for number, file in enumerate(made.dataset.files("train"))]
    (tmp_path / "mine.csv").write_text("\n".join(["file,one,two", *rows]))
    one, two = (
        planned("noise.kind=file", f"noise.file={tmp_path / 'mine.csv'}", f"noise.column={c}").keys
        for c in ("one", "two")
    )
    assert all(one[name] == two[name] == made.keys[name] for name in ("simsiam", "teacher"))
    assert len({one["rgrl"], two["rgrl"], made.keys["rgrl"]}) == 3
    (tmp_path / "few.csv").write_text("\n".join(["file,label", *(row.rpartition(",")[0] for row in rows[::2])]))
    few = planned("noise.kind=file", f"noise.file={tmp_path / 'few.csv'}").keys
    assert few["simsiam"] != made.keys["simsiam"]
    assert few["teacher"] == made.keys["teacher"]  # its images are the original ones, all of them


def test_open_set_noise_replaces_images(planned, pooled):
    """Nine settings share one beton; every stage's images are other ones, so SimSiam's are too."""
    setting = ["noise.kind=openset", "noise.rate=0", f"data.path={pooled}"]
    made = planned(*setting, "noise.rho1=0.5", "noise.rho2=0.5")
    assert made.labels.counts == {"clean": 75, "closed": 37, "open": 38}
    assert made.labels.origin["kind"] == "openset"
    keys = {
        planned(*setting, f"noise.rho1={rho1}", "noise.rho2=0.5", *more).keys[stage]
        for rho1 in (0.25, 0.5)
        for more in ([], ["noise.seed=1"], ["noise.keep_label=true"], ["noise.include_true=true"])
        for stage in ("simsiam", "classifier")
    }
    assert len(keys) == 12  # what the labels are does not matter to SimSiam
    assert planned(*setting).labels.noise_rate == 0
    with pytest.raises(ConfigError, match=r"75 images of none of the classes are needed, but there are 40; prepare"):
        planned(*setting, "noise.rho1=0.5", "noise.rho2=1")
    with pytest.raises(ConfigError, match=r"38 images .* are needed, but there are 0; prepare it again with --open"):
        planned("noise.kind=openset", "noise.rate=0", "noise.rho1=0.5", "noise.rho2=0.5")


def test_a_teacher_does_not_see_images_of_no_class(planned, pooled):
    setting = ["noise.kind=openset", "noise.rate=0", "noise.rho1=0.5", "noise.rho2=0.5", f"data.path={pooled}"]
    made = planned(*setting, "stages=[teacher]")
    own = made.training(made.stages["teacher"])
    assert own.digest == planned("noise.rate=0").labels.digest
    assert made.keys == planned(*setting, "noise.seed=1", "stages=[teacher]").keys


def test_other_noise_is_the_same_beside_images_of_no_class(planned, pooled):
    assert planned(f"data.path={pooled}").labels.digest == planned().labels.digest


def test_labels_that_nobody_has_verified_are_taken_as_they_are(planned, unverified):
    own = [f"data.path={unverified}", "stages=[simsiam,classifier,rgrl]"]
    made = planned(*own, "noise.rate=0")
    assert (made.labels.true, made.labels.noise_rate, len(made.labels)) == (None, None, 150)
    assert made.labels.origin == {"kind": "collected"}
    assert made.keys["classifier"] != planned("noise.rate=0").keys["classifier"]
    with pytest.raises(ConfigError, match="stage teacher learns true labels, but nobody knows those of"):
        planned(*own, "noise.rate=0", "stages=[teacher]")
    for override in ("noise.rate=0.4", "noise.rate=0 noise.kind=openset noise.rho1=0.5"):
        with pytest.raises(ConfigError, match=r"nobody knows which labels of .* are right, so none can be made wrong"):
            planned(*own, *override.split())


def test_every_rank_needs_two_samples(planned, monkeypatch):
    environment = {"RANK": 2, "WORLD_SIZE": 3, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 3, "MASTER_ADDR": "x"}
    for name, value in (environment | {"MASTER_PORT": 1}).items():
        monkeypatch.setenv(name, str(value))
    assert planned("task.batch_size=6", "simsiam.batch_size=6").world.size == 3
    with pytest.raises(ConfigError, match=r"task\.batch_size=5: must be at least 2 for each of 3 rank"):
        planned("task.batch_size=5")


def test_a_folder_of_another_run_is_refused_or_forced(planned):
    made = planned()
    start.describe(made.folder, made.config, 1, "cpu")
    with pytest.raises(ConfigError, match=r"seed: 0 -> 3"):
        planned("seed=3")
    forced = planned("seed=3", force=True)
    assert forced.force
    assert forced.changes == ["seed: 0 -> 3"]


def test_an_artefact_says_what_it_is(planned):
    made = planned()
    torch.manual_seed(0)
    stage = made.build("classifier", {})
    artefact = made.artefact(stage, "0a1b", [])
    assert (artefact["stage"], artefact["key"]) == ("classifier", "0a1b")
    assert artefact["classes"] == [str(digit) for digit in range(10)]
    assert artefact["model"] == {"name": "resnet10", "width": 8}
    assert "lr: 0.05" in artefact["config"]
    assert set(artefact["encoder"]) == set(stage.net.encoder.state_dict())
    teacher = made.artefact(made.build("teacher", {}), "0a1b", [])
    assert teacher["model"] == {"name": "resnet10", "width": 8}
    assert planned("teacher.model=vgg13", "teacher.width=16").artefact(stage, "", [])["model"] == artefact["model"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run that has trained a teacher of the digits, as far as anybody asks."""
    folder = tmp_path_factory.mktemp("out") / "t"
    save_teacher(folder / "teacher" / "artefact.pt")
    return folder


def save_teacher(path, **other):
    net = ImageClassifier(encoder("resnet10", 8), 10)
    content = {
        "stage": "teacher", "key": "0123456789abcdef", "classes": [str(digit) for digit in range(10)], "side": 8,
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "model": {"name": "resnet10", "width": 8},
        "encoder": net.encoder.state_dict(), "head": net.head.state_dict(), **other,
    }  # fmt: skip
    artefacts.save(path, path.with_name("shared.pt"), content)
    return path


def test_a_stage_may_start_from_what_another_run_has_trained(planned, teacher):
    made = planned("stages=[vkd]", f"inputs.teacher={teacher}")
    assert made.dataset.mean == (0.5, 0.5, 0.5)  # as the teacher knows images
    stage = made.build("vkd", {})
    assert torch.equal(stage.teacher.head.weight, artefacts.load(teacher / "teacher" / "artefact.pt")["head"]["weight"])
    file = teacher / "teacher" / "artefact.pt"
    assert planned("stages=[vkd]", f"inputs.teacher={file}").keys == made.keys


def test_a_run_goes_on_with_a_teacher_that_has_moved_to_another_folder(planned, teacher, tmp_path):
    made = planned("stages=[vkd]", f"inputs.teacher={teacher}")
    start.describe(made.folder, made.config, 1, "cpu", made.resolved)
    shutil.copytree(teacher, tmp_path / "moved")
    again = planned("stages=[vkd]", f"inputs.teacher={tmp_path / 'moved'}")
    assert (again.keys, again.resolved) == (made.keys, made.resolved)
    assert again.changes == [f"inputs.teacher: {teacher} -> {tmp_path / 'moved'}"]


def test_keys_follow_the_content_of_what_is_brought(planned, teacher, tmp_path):
    other = save_teacher(tmp_path / "artefact.pt", key="fedcba9876543210")
    keys = [planned("stages=[division,modul]", f"inputs.teacher={path}").keys for path in (teacher, other)]
    assert all(keys[0][stage] != keys[1][stage] for stage in ("division", "modul"))
    beside = planned("stages=[division,classifier]", f"inputs.teacher={teacher}").keys["classifier"]
    assert planned("stages=[classifier]").keys["classifier"] != beside  # it sees images on another scale


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"stage": "simsiam"}, r"inputs\.teacher: .*artefact\.pt is of stage simsiam"),
        ({"classes": ["a", "b"]}, r"knows 2 classes, side 8, but .* has 10, side 8: prepare"),
        ({"classes": [str(digit) for digit in reversed(range(10))]}, "under other names or in another order"),
        ({"side": 32}, "10 classes, side 32, but"),
    ],
)
def test_what_does_not_fit_is_refused(planned, tmp_path, content, words):
    path = save_teacher(tmp_path / "artefact.pt", **content)
    with pytest.raises(UserError, match=words):
        planned("stages=[vkd]", f"inputs.teacher={path}")


def test_inputs_that_nobody_asks_for_are_mistakes(planned, teacher):
    with pytest.raises(ConfigError, match="no stage of this run starts from it"):
        planned("stages=[classifier]", f"inputs.teacher={teacher}")
    with pytest.raises(ConfigError, match="this run trains it itself"):
        planned("stages=[teacher,vkd]", f"inputs.teacher={teacher}")
    with pytest.raises(DataError, match="no artefact of a finished stage here"):
        planned("stages=[vkd]", "inputs.teacher=nowhere")
    with pytest.raises(ConfigError, match=r"stage vkd needs teacher before it: .* or inputs\.teacher=<a run"):
        planned("stages=[vkd]")


def test_a_teacher_may_learn_other_images_than_the_student_sees(planned):
    made = planned("data.skip=20", "data.per_class=10", "teacher.per_class=20")
    teacher, student = (set(made.training(made.stages[name]).indices.tolist()) for name in ("teacher", "classifier"))
    assert (len(teacher), len(student)) == (200, 100)
    assert not teacher & student
    assert len(planned().training(made.stages["teacher"])) == 150  # data.per_class, if nothing else is said


def test_patience_without_labels_held_out_is_refused(planned):
    with pytest.raises(ConfigError, match=r"task\.patience=3 goes by labels that are held out.*data\.holdout=0\.1"):
        planned("task.patience=3")
    assert planned("task.patience=3", "data.holdout=0.1")


def test_a_holdout_that_rounds_to_nothing_is_refused(planned):
    with pytest.raises(ConfigError, match=r"data\.holdout=0\.001 holds out none of the 150 labels: raise it"):
        planned("data.holdout=0.001")


def test_notes_are_about_what_is_trained_on(planned):
    assert planned().notes == []
    small_batches = [f"{section}.batch_size=2" for section in ("task", "simsiam", "teacher")]
    (note,) = planned("data.per_class=1", *small_batches).notes
    assert note.startswith("noise.rate=0.4 changes no label: the classes have too few images")


@pytest.mark.parametrize("name", ["", ".", "..", "/abs", "a/../../b", "artefacts", "./artefacts/x"])
def test_a_name_is_a_folder_of_its_own(planned, name):
    with pytest.raises(ConfigError, match="not the name of a folder of its own"):
        planned(f"name='{name}'")
