"""What the networks make of wrongly labelled images: t-SNE of two classes (RMDNet figs. 5-7)."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.config import Config
from dist_rmd.data.labels import LabelView
from dist_rmd.engine.distributed import detect
from dist_rmd.errors import DataError
from dist_rmd.evaluation.features import extract_all
from dist_rmd.trained import Trained

__all__ = ["tsne"]

PER_CLASS = 1000  # points drawn of each class at most
CLEAN, MISLABELLED = ("tab:blue", "tab:green"), ("tab:red", "tab:orange")


def tsne(runs: Sequence[Path]) -> str:
    """Picture of the representations of two classes in every stage, clean and mislabelled points told apart.

    The classes are the data set's last two (ship and truck in CIFAR-10, as in the paper), by given label.  Writes
    <run>/figures/tsne.png and the same to TensorBoard; returns the paths.
    """
    paths = []
    for folder in runs:
        figure = _draw(Trained(folder))
        path = folder / "figures" / "tsne.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=150)
        with SummaryWriter(str(folder / "tb" / "figures")) as board:
            board.add_figure("figures/tsne", figure)
        paths.append(str(path))
    return "\n".join(paths)


def _draw(run: Trained) -> Figure:
    world, dataset = detect("auto"), run.dataset()
    classes = dataset.classes
    chosen = (len(classes) - 2, len(classes) - 1)
    view = _two_classes(run, chosen)
    source = run.source(dataset, world)
    figure, axes = plt.subplots(1, len(run.stages), figsize=(4.2 * len(run.stages), 4.6), squeeze=False)
    for axis, stage in zip(axes[0], run.stages, strict=True):
        net = run.network(stage, dataset, world.device)
        features, _, indices = extract_all(net.get_submodule("encoder"), source.evaluation("train", view))
        points = TSNE(init="pca", random_state=0, perplexity=min(30, len(features) // 4)).fit_transform(features.cpu())
        order = np.searchsorted(view.indices, indices.cpu().numpy())
        _scatter(axis, points, view.given[order], (view.given != view.true)[order], chosen, classes)
        axis.set_title(_title(stage, run.config))
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncol=len(names), frameon=False)
    figure.suptitle("t-SNE of training images by given label; crosses are mislabelled")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    plt.close(figure)
    return figure


def _two_classes(run: Trained, chosen: Sequence[int]) -> LabelView:
    """The first PER_CLASS images of each chosen given label, in beton order."""
    labels = run.labels
    if labels.true is None:
        raise DataError(f"{run.folder}: the true labels are not known, so mislabelled points cannot be told apart")
    rows = np.sort(np.concatenate([np.flatnonzero(labels.given == c)[:PER_CLASS] for c in chosen]))
    rows = rows[np.argsort(labels.indices[rows])]
    return LabelView(labels.indices[rows], labels.given[rows], labels.true[rows], labels.num_classes)


def _scatter(
    axis: Axes, points: np.ndarray, given: np.ndarray, wrong: np.ndarray, chosen: Sequence[int], names: Sequence[str]
) -> None:
    for label, clean_colour, wrong_colour in zip(chosen, CLEAN, MISLABELLED, strict=True):
        x, y = points[(given == label) & ~wrong].T
        axis.scatter(x, y, s=10, c=clean_colour, alpha=0.7, linewidths=0, label=f"“{names[label]}”, clean")
        x, y = points[(given == label) & wrong].T
        axis.scatter(x, y, s=16, c=wrong_colour, marker="x", linewidths=0.9, label=f"“{names[label]}”, mislabelled")
    axis.set_xticks([])
    axis.set_yticks([])


def _title(stage: str, config: Config) -> str:
    loss = config.loss.name.upper()
    return {"simsiam": "SimSiam (no labels)", "classifier": loss, "rgrl": f"{loss}+RMDNet"}.get(stage, stage)
