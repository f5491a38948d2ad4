"""Features of wrongly labelled images: t-SNE of two classes, and numbers over all classes (RMDNet figs. 5-7)."""

import csv
import difflib
import io
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.data.labels.view import LabelView
from dist_rmd.distributed.processes import detect
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.evaluation._features import extract_all
from dist_rmd.evaluation._separation import Separation, separation
from dist_rmd.files import write_atomically, write_text
from dist_rmd.losses._build import LossConfig
from dist_rmd.run.finished import FinishedRun
from dist_rmd.stages.rgrl import RelationConfig
from dist_rmd.text.escapes import markdown, prepare_drawing, visible

__all__ = ["tsne"]

ORDER = ("simsiam", "classifier", "rgrl")  # stages in the order of figures 5, 6 and 7
COLUMNS = 3
# Clean points are dots in cool colours, mislabelled points crosses in warm colours; dark and light tell the two classes
# apart.  The colours are Okabe and Ito's: colour-blind readers can tell them apart, unlike the paper's red and green.
CLEAN, MISLABELLED = ("#0072B2", "#56B4E9"), ("#D55E00", "#E69F00")
LONGEST = 20  # most letters of a class's name: the legend has room for two such names side by side
FEWEST = 4  # least number of points that t-SNE can lay out

Network = tuple[FinishedRun, str]  # a stage of a run


class Panel(NamedTuple):
    """A network's panel of the picture."""

    places: NDArray[np.float32]
    """N x 2, t-SNE of the features of the N images drawn"""
    numbers: Separation
    """how well the features of all images separate wrong labels"""


def tsne(runs: Sequence[Path], *, classes: str | None = None, points: int = 1000) -> str:
    """Picture of two classes' representations in every network, clean and mislabelled told apart, with numbers.

    runs: run folders on the same images and labels; a network that several of them share is drawn once.
    classes: two given labels by name or number, such as ship,truck (default: the last two of the data set).
    points: how many images of each class are drawn at most, evenly spaced over all images of the class.

    The numbers are over all images of the runs' labels and in the features' full dimension (evaluation/_separation.py).
    Writes figures/tsne.png and figures/tsne.csv in the first run's folder, and both to its TensorBoard; returns
    the picture's path and the numbers as Markdown.
    """
    if points < 1:
        raise ConfigError(f"points is {points}, but must be at least 1")
    found = [FinishedRun(folder) for folder in runs]
    _check_comparable(found)
    names = found[0].dataset().classes
    pair = _pair(classes, names)
    drawn = _drawn(found[0].labels, pair, points)
    if len(drawn) < FEWEST:
        raise DataError(
            f"{found[0].folder}: {len(drawn)} images are given as {names[pair[0]]} or {names[pair[1]]}, too few to draw"
        )
    networks, path = _networks(found), found[0].figures / "tsne.png"  # before the minutes that follow
    panels = _panels(networks, drawn)
    figure = draw(panels, drawn, pair, names)
    folder = found[0].folder
    write_atomically(path, lambda file: figure.savefig(file, dpi=150))
    write_text(path.with_suffix(".csv"), _csv(networks, panels))
    table = _table(networks, panels)
    with SummaryWriter(str(folder.board("figures"))) as board:
        board.add_figure("figures/tsne", figure)
        board.add_text("figures/tsne", table)
    return "\n\n".join([str(path), table, *_unfinished(found)])


# Which networks


def _check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Raise DataError unless all runs have the first run's images and labels, with known true labels."""
    first, images = runs[0], runs[0].dataset().hashes["train"]
    for run in runs:
        if run.dataset().hashes["train"] != images:
            raise DataError(
                f"{run.folder}: trained on other images ({run.config.data.path}) than {first.folder} "
                f"({first.config.data.path}); draw them apart"
            )
        if run.labels.digest != first.labels.digest:
            raise DataError(
                f"{run.folder}: trained on other labels ({_described(run.labels)}) than {first.folder} "
                f"({_described(first.labels)}); draw them apart"
            )
    if first.labels.true is None:
        raise DataError(f"{first.folder}: the true labels are not known, so mislabelled points cannot be told apart")


def _described(labels: LabelView) -> str:
    """A short description of labels for an error message: number, origin and digest."""
    words = [f"{name}={labels.origin[name]}" for name in ("kind", "file", "rate", "seed") if name in labels.origin]
    return ", ".join([f"{len(labels)} images", *words, f"digest {labels.digest[:8]}"])


def _networks(runs: Sequence[FinishedRun]) -> dict[str, Network]:
    """The finished networks of the runs, each once, in the order of the figures: title -> network."""
    distinct: dict[str, Network] = {}
    for run in runs:
        for stage in run.stages:
            distinct.setdefault(run.key(stage), (run, stage))
    rank = {stage: place for place, stage in enumerate(ORDER)}
    ordered = sorted(distinct.values(), key=lambda network: rank.get(network[1], len(ORDER)))
    titles = [_title(run, stage) for run, stage in ordered]
    shared = {title for title, times in Counter(titles).items() if times > 1}
    return {
        f"{title} [{network[0].folder}]" if title in shared else title: network
        for title, network in zip(titles, ordered, strict=True)
    }


def _unfinished(runs: Sequence[FinishedRun]) -> list[str]:
    """A line for each stage that is not drawn because it is not finished."""
    return [
        f"Not drawn: {stage} of {run.folder} is not finished."
        for run in runs
        for stage in run.config.stages
        if stage not in run.stages
    ]


def _title(run: FinishedRun, stage: str) -> str:
    loss, relation = run.config.section(LossConfig).name.upper(), run.config.section(RelationConfig)
    method = "RGRL" if relation.teacher == "random" else "RMDNet"
    titles = {"simsiam": "SimSiam", "classifier": loss, "rgrl": f"{loss}+{method} (K={relation.k:g})"}
    return titles.get(stage, stage) + (", forced" if stage in run.forced else "")


# The points of the picture


def _pair(text: str | None, classes: Sequence[str]) -> tuple[int, int]:
    """The numbers of the two classes that `text` gives by name or number."""
    words = [word.strip() for word in text.split(",")] if text is not None else classes[-2:]
    numbers = [_number(word, classes) for word in words]
    if len(numbers) != 2 or numbers[0] == numbers[1]:
        raise ConfigError(f"classes is {text!r}, but must be two different ones, such as {','.join(classes[-2:])}")
    return numbers[0], numbers[1]


def _number(word: str, classes: Sequence[str]) -> int:
    if word in classes:
        return list(classes).index(word)
    if word.isdecimal() and int(word) < len(classes):
        return int(word)
    near = [] if word.isdecimal() else difflib.get_close_matches(word, classes, n=1)
    some = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {some}, or 0..{len(classes) - 1}"
    raise ConfigError(f"there is no class {word!r}: {hint}")


def _drawn(labels: LabelView, pair: Sequence[int], points: int) -> LabelView:
    """At most `points` images of each given label of `pair`, in the beton's order.

    They are evenly spaced over all images of the label: where images are sorted by true class, the first images with a
    given label would all be mislabelled.
    """
    chosen = []
    for label in pair:
        rows = np.flatnonzero(labels.given == label)
        count = min(points, len(rows))
        chosen.append(rows[np.arange(count) * len(rows) // max(1, count)])
    rows = np.concatenate(chosen)
    rows = rows[np.argsort(labels.indices[rows])]
    assert labels.true is not None  # or _check_comparable would have refused
    return LabelView(labels.indices[rows], labels.given[rows], labels.true[rows], labels.num_classes)


def _panels(networks: Mapping[str, Network], drawn: LabelView) -> dict[str, Panel]:
    """The panel of each network: measures the features of all images, and lays out those of the images `drawn`."""
    run = next(iter(networks.values()))[0]
    world, dataset, labels = detect("auto"), run.dataset(), run.labels
    by_index = np.argsort(labels.indices)  # the order of extract_all
    assert labels.true is not None  # or _check_comparable would have refused
    given, true = (torch.from_numpy(v[by_index]).to(world.device) for v in (labels.given, labels.true))
    rows = np.searchsorted(labels.indices[by_index], drawn.indices)
    loader = run.source(dataset, world).evaluation("train", labels)
    panels = {}
    for title, (owner, stage) in networks.items():
        encoder = owner.network(stage, dataset, world.device).get_submodule("encoder")
        features, _, _ = extract_all(encoder, loader)
        panels[title] = Panel(_places(features.cpu().numpy()[rows]), separation(features, given, true))
    return panels


def _places(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """t-SNE of N x D features: N x 2, the same at every call; zeros where a collapsed network's features are equal."""
    if (features == features[0]).all():  # scikit-learn 1.9 crashes on equal features
        return np.zeros((len(features), 2), np.float32)
    return TSNE(init="pca", random_state=0, perplexity=min(30, (len(features) - 1) / 3)).fit_transform(features)


def draw(panels: Mapping[str, Panel], drawn: LabelView, pair: Sequence[int], classes: Sequence[str]) -> Figure:
    """Draw the panels (title -> panel), whose places are those of the images `drawn`."""
    classes = [visible(name) for name in classes]
    prepare_drawing([*panels, *(classes[label] for label in pair)])
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.1 * columns, 4.7 * rows + 0.8), squeeze=False, layout="constrained"
    )
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
        _scatter(axis, panel.places, drawn, pair, classes)
        _head(axis, title, panel.numbers)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    handles, names = axes[0][0].get_legend_handles_labels()
    beside = min(2, columns)  # in the legend, a row for each class
    figure.legend(handles, names, loc="outside lower center", ncols=beside, markerscale=1.6, frameon=False)
    numbers = next(iter(panels.values())).numbers
    measured = (
        f"numbers: all {numbers.images:,} images, {100 * numbers.mislabelled / numbers.images:.1f} % labelled wrong"
    )
    figure.suptitle(f"t-SNE of training images by given label\n{measured}", fontsize="medium")
    plt.close(figure)
    return figure


def _scatter(
    axis: Axes, places: NDArray[np.float32], drawn: LabelView, pair: Sequence[int], classes: Sequence[str]
) -> None:
    size = float(np.clip(8000 / len(places), 7, 16))
    wrong = drawn.given != drawn.true
    clean, mislabelled = {"alpha": 0.8, "linewidths": 0}, {"marker": "x", "linewidths": size**0.5 / 4}
    for which, colours, style, word in ((~wrong, CLEAN, clean, "clean"), (wrong, MISLABELLED, mislabelled, "wrong")):
        for label, colour in zip(pair, colours, strict=True):
            x, y = places[(drawn.given == label) & which].T
            name = classes[label] if len(classes[label]) <= LONGEST else f"{classes[label][: LONGEST - 1]}…"
            axis.scatter(x, y, s=size, c=colour, label=f"“{name}”, {word} ({len(x)})", **style)
    axis.set_xticks([])
    axis.set_yticks([])


def _head(axis: Axes, title: str, numbers: Separation) -> None:
    """Write the panel's title, and its numbers below in small type."""
    auroc = "none, see table" if numbers.auroc is None else f"{numbers.auroc:.3f}"
    lines = [
        f"AUROC of “wrong” by distance to the class: {auroc}",
        f"{numbers.neighbours} nearest, same given label: "
        f"clean {_percent(numbers.given_clean)}, wrong {_percent(numbers.given_mislabelled)}",
        f"{numbers.neighbours} nearest, same true label: "
        f"clean {_percent(numbers.true_clean)}, wrong {_percent(numbers.true_mislabelled)}",
    ]
    axis.set_title(textwrap.fill(title, 38), pad=12 * len(lines) + 6)
    axis.text(0.5, 1.015, "\n".join(lines), transform=axis.transAxes, ha="center", va="bottom", fontsize=8.5)


# Numbers


def _table(networks: Mapping[str, Network], panels: Mapping[str, Panel]) -> str:
    """Markdown: a line on the images measured, then a table with a row for each network."""
    some = next(iter(panels.values())).numbers
    lines = [
        f"{some.images} training images, {some.mislabelled} of them mislabelled; {some.neighbours} nearest neighbours",
        "",
        "| network | run | AUROC of mislabelled | same given label: clean | mislabelled "
        "| same true label: clean | mislabelled |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, (_, numbers) in panels.items():
        auroc = "-" if numbers.auroc is None else f"{numbers.auroc:.3f}"
        shares = (numbers.given_clean, numbers.given_mislabelled, numbers.true_clean, numbers.true_mislabelled)
        run = markdown(str(networks[title][0].folder))
        lines.append(f"| {markdown(title)} | {run} | {auroc} | {' | '.join(map(_percent, shares))} |")
    if some.auroc is None:
        lines += ["", "No AUROC: it needs mislabelled and clean images in classes of two or more."]
    return "\n".join(lines)


def _csv(networks: Mapping[str, Network], panels: Mapping[str, Panel]) -> str:
    """CSV text, a row for each network: title, run, stage and the fields of Separation, empty where None."""
    rows = [
        {"network": title, "run": str(networks[title][0].folder), "stage": networks[title][1], **asdict(numbers)}
        for title, (_, numbers) in panels.items()
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
