"""f. MODUL: a teacher, its division of images with wrong labels and of no class, and students of what it says."""

from tools.bench_parts.tables import Row, Table, short
from tools.replicate_parts.sizes import ENCODERS, encoder, prepared
from tools.replicate_parts.step import Step, Work
from tools.replicate_parts.steps.images import part
from tools.replicate_parts.training import FASTER, Run, curve, epochs_that_fit, scores, train

KNOWN = 0.7
"""of the classes: images of the others are of no class that the networks know"""
TEACHERS = {"cuda": ("resnet34", 64, 256), "cpu": ("resnet10", 16, 64)}
"""encoder, width, batch"""
STUDENTS = {"cuda": ENCODERS["cuda"], "cpu": ("resnet10", 8)}
TEACHER_SHARE = 0.35
"""of the step's time"""
COSTS = {"vkd": 1.0, "dfnd": 1.0, "modul": 2.5}
"""of a step, in those of vkd"""
LONGER = 1.8
"""MODUL leaves the open set out of its epochs: so many of them are about as many steps as the others'"""
NOISE = ("noise.kind=openset", "noise.rho1=0.5", "noise.rho2=0.5")


def runs(work: Work) -> tuple[Run, list[Run]]:
    """The teacher's, and the students'."""
    folder = work.folder / "images-open"
    found = prepared(folder)
    images = found["splits"]["train"]["images"] - found["splits"]["train"]["open"]
    faster = FASTER[work.device][-1:]  # four networks, each for a minute or so: compiling them would take longer
    model, width, batch = TEACHERS[work.device]
    common = (f"data.path={folder}", *encoder(work, STUDENTS[work.device]))
    recipe = (
        f"teacher.model={model}", f"teacher.width={width}", f"teacher.batch_size={batch}", "teacher.lr=0.1",
        "teacher.schedule=cosine",
    )  # fmt: skip
    teacher = Run(
        "teacher", "modul-teacher", "teacher", "teacher", images, "test/top1",
        ("stages=[teacher]", *common, *recipe), faster,
    )  # fmt: skip
    students = []
    for title, stage, stages, lr in (
        ("KD (T = 4)", "vkd", "[vkd]", 0.1),  # of outputs: the paper's VKD is most probably one of features
        ("DFND", "dfnd", "[dfnd]", 0.1),
        ("MODUL", "modul", "[division,modul]", 1.0),
    ):
        own = (
            f"stages={stages}", f"inputs.teacher={teacher.folder(work)}", "student.batch_size=64",
            f"student.lr={lr}", "student.schedule=cosine", "division.evidence=exp", "modul.open_batch_size=16",
        )  # fmt: skip
        students.append(
            Run(title, f"modul-{stage}", stage, "student", images, "test/top1", (*own, *NOISE, *common), faster)
        )
    return teacher, students


def run(work: Work) -> None:
    classes = len(prepared(work.images)["classes"])
    known = round(KNOWN * classes)
    if not 2 <= known < classes:
        work.note(f"{classes} classes are too few: some must be left for images of no class.")
        return
    work.note(f"The first {known} of {classes} classes are known, images of the others are the open set; half of the "
              "labels are wrong, half of these on open-set images.")  # fmt: skip
    if not work.finished("images"):
        options = ["--known", known, *part(work)]
        work.python(
            "-m", "tools.replicate_parts.images", work.kind, work.data or "-", work.folder / "images-open", *options
        )
        work.finish("images")
    teacher, students = runs(work)
    try:
        if not teacher.artefact(work).exists():
            train(work, teacher, epochs_that_fit(work, teacher, TEACHER_SHARE))
        waiting = [student for student in students if not student.artefact(work).exists()]
        each = epochs_that_fit(work, students[0], COSTS["vkd"] / sum(COSTS.values()))
        for student in waiting:
            train(work, student, round(each * LONGER) if student.stage == "modul" else each)
            divided(work, student)
    finally:
        said = [(one.title, scores(work, one)) for one in (teacher, *students)]
        work.say("; ".join(f"{title} {found[max(found)]:.1f} %" for title, found in said if found))


def divided(work: Work, student: Run) -> None:
    """What the division has found, in numbers."""
    for point in curve(student.folder(work).metrics, "division"):
        numbers = {tag: short(value) for tag, value in point.items() if "/" in tag}
        work.show(Table("The division", "", [Row(tag, facts={"found": value}) for tag, value in numbers.items()]))


STEP = Step("modul", "MODUL", run, least={"cuda": 120, "cpu": 120}, weight=2.0)
