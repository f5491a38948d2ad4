"""Report of suspect labels: a table, a page to decide on, and a picture.  No true labels are needed."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.labels.table import read_label_table
from dist_rmd.data.prepared.beton import Dataset
from dist_rmd.distributed.processes import detect
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.evaluation._features import extract_all
from dist_rmd.files import write_atomically
from dist_rmd.pipeline.folds import out_of_fold
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun
from dist_rmd.suspects.page import page
from dist_rmd.suspects.ranking import Ranking
from dist_rmd.suspects.scores import Suspicion, parts, suspicion
from dist_rmd.suspects.twins import disagreeing_twins
from dist_rmd.text.escapes import markdown, prepare_drawing, visible

__all__ = ["suspects"]

UNTOUCHED = ("simsiam", "simclr", "byol", "moco", "dino", "teacher")
"""stages whose features do not depend on the run's given labels, the best first"""
COLUMNS, ROWS = 10, 4  # images in the picture
LONGEST = 16  # most letters of a class's name in the picture
SETS = ("clean", "closed", "open")
PARTS = 5
"""number of parts (folds) of the images; Gaussians fitted to the other parts judge a part"""
MOST_FOLDS = 5

Integers = NDArray[np.int64]


def suspects(
    runs: Sequence[Path],
    *,
    stage: str | None = None,
    folds: int = 0,
    images: int = 50_000,
    data: str | None = None,
    truth: str | None = None,
) -> str:
    """Which labels are probably wrong, the most suspect first: a table, a page to decide on, and a picture.

    runs: run folders with a finished stage, such as simsiam alone; their true labels need not be known.
    stage: the stage whose features judge the labels (default: one without labels, else teacher, else the last).
    folds: classifiers to train, 2 to 5, each of which judges the part of the images it has not seen (0: none).
    images: how many of the most suspect images the page shows at most; the tables list all of them.
    data: where the prepared images are now, if not where the run was trained.
    truth: a table with the columns file and label, the true labels that measure the ranking (default: the run's own).

    Writes <run>/suspects.csv, cleaned.csv, probabilities.npz, suspects.html and figures/suspects.png, the picture also
    to TensorBoard; returns numbers, paths and the commands that come next.  docs/suspects.md explains the columns.
    """
    if folds != 0 and not 2 <= folds <= MOST_FOLDS:
        raise ConfigError(f"folds is {folds}, but must be 2 to {MOST_FOLDS}, or 0 for none")
    if images < 1:
        raise ConfigError(f"images is {images}, but must be at least 1")
    return "\n\n".join(_one(FinishedRun(folder), stage, folds, images, data, truth) for folder in runs)


def _one(run: FinishedRun, wanted: str | None, folds: int, images: int, data: str | None, truth: str | None) -> str:
    name = _stage(run, wanted)
    dataset, labels = run.dataset(Path(data) if data else None), run.labels
    true = labels.true if truth is None else _truth(Path(truth), dataset, labels.indices)
    networks = out_of_fold(run, dataset, parts(len(labels), folds)) if folds else None
    features, given = _features(run, name, dataset)
    if networks is not None:
        networks = networks.to(features.device)
    try:
        found = suspicion(features, given, len(dataset.classes), PARTS, networks)
    except ValueError as error:
        raise DataError(f"{run.folder}: {error}") from None
    ranking, order = _ranked(run, dataset, found)

    def pictures(places: Integers) -> NDArray[np.uint8]:
        return dataset.images("train", labels.indices[order[places]])

    least, most = (int(values.sum().round()) for values in (found.least, found.most))
    about = f"{len(ranking):,} images; {least:,} to {most:,} labels are expected to be wrong"
    table, decide = run.folder.suspects
    picture = run.figures / "suspects.png"
    title = f"Suspect labels of {'/'.join(run.path.absolute().parts[-2:])}"  # clean's runs are all called given
    cleaned = run.folder.cleaned
    written = {table: ranking.csv(), cleaned: ranking.cleaned(), decide: page(ranking, title, about, images, pictures)}
    for path, text in written.items():
        write_atomically(path, functools.partial(_write, text))
    shares: dict[str, Any] = {"indices": labels.indices, "given": labels.given, **found.posterior.arrays()}
    write_atomically(run.folder.probabilities, lambda file: np.savez(file, **shares))
    write_atomically(picture, functools.partial(draw(ranking, pictures).savefig, format="png"))
    with SummaryWriter(str(run.folder.board("figures"))) as board, Image.open(picture) as drawn:
        board.add_image("figures/suspects", np.asarray(drawn.convert("RGB")), dataformats="HWC")
    return "\n".join(
        [
            *_head(run, name, found, folds),
            "",
            *_table(ranking, found),
            "",
            *([] if true is None else [_judged(ranking, true[order])]),
            *_twins(ranking),
            f"{decide} ({decide.stat().st_size / 1e6:.1f} MB): keep, relabel or drop in a browser, and save labels.csv",
            f"{table}: every image, the most suspect label first",
            f"{cleaned}: labels to train on if nobody looks, {int(ranking.sure.sum()):,} images",
            f"{run.folder.probabilities}: the probability of each class, weights or soft labels for stage relabel",
            str(picture),
            f"Train on what you have saved, or on this: noise.kind=file noise.file={cleaned}",
        ]
    )


def _write(text: str, file: BinaryIO) -> None:
    file.write(text.encode("utf-8", "surrogateescape"))


# Judging the labels


def _stage(run: FinishedRun, wanted: str | None) -> str:
    """The stage whose features judge the labels.  Raises ConfigError or DataError where no stage has features."""
    there = [name for name in (*run.config.inputs, *run.stages) if "encoder" in artefacts.load(run.artefact(name))]
    if wanted is not None:
        if wanted not in there:
            raise ConfigError(f"{run.folder}: stage {wanted} has no features here: choose from {', '.join(there)}")
        return wanted
    if not there:
        raise DataError(f"{run.folder}: no stage of this run has features")
    return next((name for name in UNTOUCHED if name in there), there[-1])


def _features(run: FinishedRun, stage: str, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Features N x D and given labels N of the run's images, in the order of the run's labels."""
    world, labels = detect("auto"), run.labels
    encoder = run.network(stage, dataset, world.device).get_submodule("encoder")
    features, given, _ = extract_all(encoder, run.source(dataset, world).evaluation("train", labels))
    places = torch.from_numpy(np.argsort(np.argsort(labels.indices))).to(world.device)  # in the beton's order
    return features[places], given[places]


def _truth(table: Path, dataset: Dataset, indices: Integers) -> Integers:
    """The right labels of the images at `indices`, from a table.  Raises DataError where the table lacks an image."""
    try:
        files, held_out = dataset.files("train"), dataset.files("test") if dataset.held_out else ()
        positions, labels = read_label_table(table, "label", files, dataset.classes, dataset.folder, held_out=held_out)
    except ValueError as error:
        raise DataError(f"{table}: {error}") from None
    known = np.full(dataset.sizes["train"], -2)
    known[positions] = labels
    if (missing := indices[known[indices] == -2]).size:
        raise DataError(f"{table}: lists {dataset.files('train')[missing[0]]!r} not, nor {len(missing) - 1} others")
    return known[indices]


def _ranked(run: FinishedRun, dataset: Dataset, found: Suspicion) -> tuple[Ranking, Integers]:
    """Rank all images, the most suspect first: the ranking, and the images' rows in the run's labels."""
    labels, right = run.labels, found.right.cpu().numpy().astype(np.float64)
    order = np.argsort(right, kind="stable")
    twins = disagreeing_twins(
        found.near.nearest.cpu().numpy(),
        labels.given,
        lambda rows: dataset.images("train", labels.indices[rows]),
    )
    files, sets = dataset.files("train"), _sets(run)
    positions = labels.indices[order].tolist()
    names = ("proposed", "probable", "given", "share")
    column = {name: getattr(found, name).cpu().numpy()[order] for name in names}
    given = labels.given[order]
    ranking = Ranking(
        classes=dataset.classes,
        files=[files[position] for position in positions],
        given=given,
        proposed=column["proposed"],
        probable=column["probable"],
        sure=(column["probable"] == given) | (found.posterior.probable()[1].cpu().numpy()[order] > 0.5),
        score=1 - right[order],
        p_given=column["given"].astype(np.float64),
        neighbours=column["share"].astype(np.float64),
        sets=[sets.get(position, "") for position in positions],
        twins=twins[order],
    )
    return ranking, order


def _sets(run: FinishedRun) -> dict[int, str]:
    """The set that the run's stage division found for each image: position in the beton -> name of the set."""
    if "division" not in (*run.config.inputs, *run.stages):
        return {}
    artefact = artefacts.load(run.artefact("division"))
    return dict(zip(artefact["indices"].tolist(), (SETS[which] for which in artefact["sets"].tolist()), strict=True))


# Numbers


def _head(run: FinishedRun, stage: str, found: Suspicion, folds: int) -> Iterator[str]:
    count, least, most = len(found.right), float(found.least.sum()), float(found.most.sum())
    near = found.near
    among = f" among the {near.compared:,} images most alike" if near.compared < count else ""
    yield (
        f"{run.folder}: {count:,} labels, judged by features of {stage} ({near.nearest.shape[1]} neighbours{among} and "
        f"{PARTS} folds)" + (f" and by {folds} classifiers that have not seen them" if folds else "")
    )
    if stage not in UNTOUCHED:
        yield (
            f"Note: the features of {stage} were fitted to these labels, which hides those it has memorised; "
            "a run with stage simsiam judges them better"
        )
    yield (
        f"{least:,.0f} to {most:,.0f} labels are expected to be wrong "
        f"({100 * least / count:.1f} to {100 * most / count:.1f} %)"
    )


def _table(ranking: Ranking, found: Suspicion) -> Iterator[str]:
    """Markdown table: for each given class the expected number of wrong labels, and the class most often proposed."""
    yield "| given | images | expected wrong | most often proposed |"
    yield "|---|---|---|---|"
    images = np.bincount(ranking.given, minlength=len(ranking.classes))
    moved = ranking.probable != ranking.given
    for label, name in enumerate(ranking.classes):
        proposals = np.bincount(ranking.probable[moved & (ranking.given == label)], minlength=len(ranking.classes))
        most = int(proposals.argmax())
        proposed = f"{markdown(ranking.classes[most])} ({proposals[most]})" if proposals[most] else "-"
        expected = f"{float(found.least[label]):.0f} to {float(found.most[label]):.0f}"
        yield f"| {markdown(name)} | {images[label]} | {expected} | {proposed} |"


def _judged(ranking: Ranking, true: Integers) -> str:
    """How well the ranking finds the wrong labels, where the truth is known."""
    wrong = ranking.given != true
    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return f"Truth: {count} of {len(wrong)} labels are wrong, so no ranking can be right or wrong"
    area = roc_auc_score(wrong, -np.arange(len(wrong)))
    precision = ", ".join(f"{100 * wrong[:n].mean():.1f} % of the top {n:,}" for n in (50, 100, count))
    closed = wrong & (true != OPEN)
    proposed = f"; {100 * (ranking.proposed == true)[closed].mean():.1f} % of the wrong have their class proposed"
    right = ranking.probable == true
    cleaned = f"; {100 * right[ranking.sure].mean():.1f} % of {int(ranking.sure.sum()):,} in cleaned.csv"
    return (
        f"Truth: {count:,} labels are wrong, AUROC {area:.3f}; wrong are {precision}"
        f"{proposed if closed.any() else ''}; {100 * right.mean():.1f} % are right in column label"
        f"{cleaned if ranking.sure.any() else ''}"
    )


def _twins(ranking: Ranking) -> Iterator[str]:
    groups = int(ranking.twins.max(initial=-1)) + 1
    if groups:
        images = int((ranking.twins >= 0).sum())
        yield f"{images} pictures in {groups} groups are almost the same, and have different labels: column twins"


# The picture


def draw(ranking: Ranking, pictures: Callable[[Integers], NDArray[np.uint8]]) -> Figure:
    """Draw the most suspect images with their given and, below, their proposed labels."""
    prepare_drawing(ranking.classes)
    count = min(COLUMNS * ROWS, len(ranking))
    figure, axes = plt.subplots(
        -(-count // COLUMNS), COLUMNS, figsize=(1.15 * COLUMNS, 1.6 * -(-count // COLUMNS) + 0.5), dpi=150,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for place, (axis, image) in enumerate(zip(axes.flat, pictures(np.arange(count)), strict=False)):
        axis.imshow(image, interpolation="nearest" if len(image) <= 150 else "antialiased")
        given, proposed = (_short(ranking.classes[column[place]]) for column in (ranking.given, ranking.proposed))
        axis.set_title(f"{given}\n→ {proposed}", fontsize=7)
    figure.suptitle(f"The {count} most suspect of {len(ranking):,} labels: given, and proposed", fontsize="medium")
    plt.close(figure)
    return figure


def _short(name: str) -> str:
    name = visible(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
