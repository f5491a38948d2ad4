"""Which labels are wrong: `report suspects` beside cleanlab, on the same features and folds.

Here the figures are how right both are, over as many seeds of the noise as there are rounds; times are of the ranking
alone, once the features are there.
"""

import contextlib
import functools
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.preprocessing import StandardScaler

from dist_rmd import prepare
from dist_rmd.data.labels.class_maps import CIFAR10
from dist_rmd.data.labels.instance_noise import instance_view
from dist_rmd.data.labels.view import LabelView, noisy_view, openset_view
from dist_rmd.data.prepared.beton import Dataset
from dist_rmd.distributed.processes import detect
from dist_rmd.evaluation._features import extract_all
from dist_rmd.pipeline.folds import out_of_fold
from dist_rmd.pipeline.runner import train
from dist_rmd.run.finished import FinishedRun
from dist_rmd.suspects.scores import parts, suspicion
from tools.bench_parts import peers
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table

ROOT = Path(__file__).resolve().parents[2]
FOLDS = 5
EPOCHS = 40  # of a classifier; those of --folds take half of them
HEARD = "classifiers"
CLEANLAB, MARGIN, OURS = "cleanlab, self-confidence", "cleanlab, normalised margin", "ours"

Floats = NDArray[np.floating]


def measure(settings: Settings) -> Iterator[Table]:
    for run in settings.runs or digits(settings):
        trained = FinishedRun(run)
        dataset = trained.dataset()
        features = extract(trained, dataset, settings)
        yield compared(trained, dataset, features, settings)


def digits(settings: Settings) -> list[Path]:
    """Two runs of SimSiam on scikit-learn's digits: on all ten, and on seven with three as images of none of them."""
    runs = []
    for name, options in {"digits": [], "digits-open": ["--open-classes", "7,8,9"]}.items():
        data = settings.scratch / "data" / name
        with contextlib.redirect_stdout(sys.stderr):
            if prepare.main(["digits", str(data), *options]):
                raise RuntimeError("prepare digits has failed")
        command = [
            sys.executable, "-m", "dist_rmd.train", str(ROOT / "configs" / "rmdnet" / "digits.yaml"),
            "stages=[simsiam]", f"data.path={data}", f"out={settings.scratch}", f"name={name}", "noise.rate=0",
            f"device={settings.device}", *(["simsiam.epochs=1"] if settings.quick else []),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        runs.append(settings.scratch / name)
    return runs


def extract(run: FinishedRun, dataset: Dataset, settings: Settings) -> torch.Tensor:
    """Features of all images of the dataset, those of none of the classes among them, in its order."""
    world, count = detect(settings.device), dataset.sizes["train"]
    everything = LabelView(np.arange(count), np.zeros(count, np.int64), None, len(dataset.classes))
    encoder = run.network("simsiam", dataset, world.device).get_submodule("encoder")
    return extract_all(encoder, run.source(dataset, world).evaluation("train", everything))[0]


def noises(dataset: Dataset, seed: int) -> dict[str, LabelView]:
    """The labels under each kind of noise."""
    labels, names = dataset.labels("train"), dataset.classes
    pairs = {2 * i: 2 * i + 1 for i in range(len(names) // 2)}  # every other class is taken for the next one
    if {*CIFAR10, *CIFAR10.values()} <= {*names}:
        pairs = {names.index(source): names.index(target) for source, target in CIFAR10.items()}
    made = {
        f"{kind} {rate}": noisy_view(labels, len(names), kind, rate, seed, class_map=pairs)
        for kind, rate in (("symmetric", 0.2), ("symmetric", 0.4), ("pairflip", 0.4), ("asymmetric", 0.4))
    }
    made["instance 0.4"] = instance_view(dataset, 0.4, seed)
    if dataset.open_images:
        made["openset 0.4, 0.5"] = openset_view(labels, len(names), 0.4, 0.5, seed)
    return made


def compared(run: FinishedRun, dataset: Dataset, features: torch.Tensor, settings: Settings) -> Table:
    """Rows for each noise."""
    absent = peers.missing("cleanlab")
    ways = {OURS: ours} if absent else {CLEANLAB: by_cleanlab, OURS: ours}
    if settings.folds:
        ways[HEARD] = functools.partial(hearing, run, dataset, settings, not absent)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(settings.rounds):
        for noise, view in noises(dataset, seed).items():
            x, wrong = features[torch.from_numpy(view.indices).to(features.device)], view.given != view.true
            for judge in ways.values():
                began = time.perf_counter()
                scores = judge(x, view)
                taken = time.perf_counter() - began
                for way, score in scores.items():
                    found.setdefault((noise, way), []).append({"seconds": taken, **judged(score, wrong)})
    rows = [Row(CLEANLAB, absent=absent)] if absent else []
    for (noise, way), results in found.items():
        facts = {key: spread([result[key] for result in results]) for key in results[0] if key != "seconds"}
        base = f"{noise}: {CLEANLAB}" if way == OURS and not absent else None
        rows.append(Row(f"{noise}: {way}", [result["seconds"] for result in results], base, facts=facts))
    hearsay = (
        f" Rows with classifiers: both have the probabilities of the same {settings.folds} classifiers of --folds, and "
        "their time is in the figures."
        if settings.folds
        else ""
    )
    return Table(
        f"Wrong labels of {run.folder.path.name}",
        f"{len(dataset.classes)} classes, SimSiam's features ({features.shape[1]} numbers), {settings.rounds} seeds of "
        f"the noise, {FOLDS} folds, the same for both. cleanlab has the probabilities of scikit-learn's logistic "
        f"regression on standardised features.{hearsay} AUROC; precision at N, the number of wrong labels: mean "
        "(least..most).",
        rows,
    )


def by_cleanlab(features: torch.Tensor, view: LabelView) -> dict[str, Floats]:
    """Its two rankings of labels by probabilities that others have made: the least are the most suspect."""
    from cleanlab.rank import get_label_quality_scores

    x = StandardScaler().fit_transform(features.cpu().numpy())
    split = PredefinedSplit(parts(len(view), FOLDS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it has not converged
        probabilities = cross_val_predict(
            LogisticRegression(max_iter=300), x, view.given, cv=split, method="predict_proba"
        )
    return {
        title: get_label_quality_scores(view.given, probabilities, method=method)
        for title, method in ((CLEANLAB, "self_confidence"), (MARGIN, "normalized_margin"))
    }


def ours(features: torch.Tensor, view: LabelView) -> dict[str, Floats]:
    found = suspicion(features, torch.from_numpy(view.given).to(features.device), view.num_classes, FOLDS)
    return {OURS: found.right.cpu().numpy()}


def hearing(
    run: FinishedRun, dataset: Dataset, settings: Settings, cleanlab: bool, features: torch.Tensor, view: LabelView
) -> dict[str, Floats]:
    """Rankings by `--folds`, which start from the features as in `clean`; and cleanlab's, of the same probabilities."""
    table = settings.scratch / "hearing.npz"
    view.save(table)
    with contextlib.redirect_stdout(sys.stderr):
        trained = train(
            run.folder.config, "stages=[classifier]", f"inputs.simsiam={run.folder.path}", "task.init_from=simsiam",
            f"out={settings.scratch}", f"name=hearing-{view.digest[:16]}", f"data.path={dataset.folder}",
            "data.per_class=null", "noise.kind=file", "noise.rate=0", f"noise.file={table}",
            f"task.epochs={2 if settings.quick else EPOCHS}", f"device={settings.device}",
        )  # fmt: skip
        networks = out_of_fold(trained, dataset, parts(len(view), settings.folds))
    found = suspicion(features, torch.from_numpy(view.given), view.num_classes, FOLDS, networks)
    said = {f"ours, {HEARD}": found.right.numpy()}
    if cleanlab:
        from cleanlab.rank import get_label_quality_scores

        said[f"cleanlab, {HEARD}"] = get_label_quality_scores(view.given, networks.dense().double().numpy())
    return said


def judged(score: Floats, wrong: NDArray[np.bool_]) -> dict[str, float]:
    """How far the least scores are those of wrong labels."""
    order = np.argsort(score, kind="stable")
    return {
        "AUROC": float(roc_auc_score(wrong, -score)),
        **{f"precision at {n}": float(wrong[order[:n]].mean()) for n in (50, 100)},
        "precision at N": float(wrong[order[: int(wrong.sum())]].mean()),
    }


def spread(figures: list[float]) -> str:
    """mean (least..most)"""
    return f"{statistics.mean(figures):.3f} ({min(figures):.3f}..{max(figures):.3f})"
