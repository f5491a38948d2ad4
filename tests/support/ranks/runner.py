"""DATA FOLDER: a script of a user's that trains, then reads the run back on every rank -> FOLDER/<rank>.pt."""

import os
import sys

import torch

import dist_rmd
from support import small

data, folder = sys.argv[1:]
run = dist_rmd.train(
    None, *small.RECIPE, "stages=[classifier]", "data.reader=memory", f"data.path={data}", f"out={folder}"
)
images = dist_rmd.open_dataset(data).images("test")[:20]
found = {
    "world": run.folder.read_environment()["world"],
    "weight": run.network("classifier").get_parameter("head.weight").detach(),
    "probabilities": torch.from_numpy(run.predict(images).probabilities),
}
torch.save(found, f"{folder}/{os.environ['RANK']}.pt")
