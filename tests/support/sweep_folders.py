"""Sweep folders written by hand: for tables of many cells, where training them all would take days."""

import itertools
import json
from pathlib import Path

from dist_rmd.run import artefacts

SEEDS = (0, 1, 2)


class SweepFolder:
    """`<folder>/sweep.json` of a grid over `axes`, and runs under it as far as `finish` and `fail` make them."""

    def __init__(self, folder, axes, seeds=SEEDS, changed=(), **plan):
        self.folder = Path(folder)
        self.axes, self.seeds = axes, tuple(seeds)
        self.cells = [
            {
                "run": "-".join([*values, f"seed{seed}"]),
                "coordinates": dict(zip(axes, values, strict=True)),
                "seed": seed,
                "changed": list(changed),
            }
            for values in itertools.product(*axes.values())
            for seed in seeds
        ]
        self.plan = {"grid": "table1", "title": "Accuracy", "published": None, "table": None, "compare": {}, **plan}
        self.write()

    def write(self):
        """sweep.json as it stands now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = {**self.plan, "overrides": [], "axes": self.axes, "seeds": self.seeds, "cells": self.cells}
        (self.folder / "sweep.json").write_text(json.dumps(plan))

    def run(self, *values, seed=0):
        """The folder of a run that has begun."""
        folder = self.folder / "-".join([*values, f"seed{seed}"])
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text("stages: [simsiam, rgrl]\n")
        return folder

    def finish(self, *values, seed=0, curve, held_out=(), predicted_classes=10, forced=()):
        """A run with these accuracies after epochs 1, 2, ..., and these on held-out labels where there are any."""
        folder = self.run(*values, seed=seed)
        scores = [
            {"epoch": epoch, "step": 10 * epoch, "test/top1": accuracy, "test/predicted_classes": predicted_classes}
            for epoch, accuracy in enumerate(curve, start=1)
        ]
        for score, accuracy in zip(scores, held_out, strict=False):
            score["val/top1"] = accuracy
        artefacts.save(folder / "rgrl" / "artefact.pt", folder / "shared.pt", {"scores": scores})
        self.end(folder, 0, "done", forced=list(forced))

    def fail(self, *values, seed=0, code, reason):
        """A run that ended with this exit code."""
        self.end(self.run(*values, seed=seed), code, reason)

    def end(self, folder, code, reason, **facts):
        status = {0: "done", 75: "stopped"}.get(code, "failed")
        outcome = {"status": status, "code": code, "reason": reason, "rank": 0, **facts}
        (folder / "exit.json").write_text(json.dumps(outcome))
