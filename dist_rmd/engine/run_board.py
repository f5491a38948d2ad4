"""A whole run in TensorBoard: the configuration as text, and an entry in the table of hyper-parameters.

The entry holds the settings; TensorBoard takes its scores from the stages' curves, in the folders below.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

Setting = str | bool | int | float


def show_start(folder: Path, configuration: str, settings: Mapping[str, Setting]) -> None:
    """Write configuration and entry anew into `folder`, the run's folder above those of its stages, as under way.

    Training does not depend on these files: errors in writing them are ignored.
    """
    with contextlib.suppress(OSError):
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder)) as writer:
            writer.add_text("configuration", "".join(f"    {line}\n" for line in configuration.splitlines()))
            _, begun, _ = hparams(dict(settings), {})  # without the list of columns, of which TensorBoard reads one
            writer._get_file_writer().add_summary(begun)


def show_end(folder: Path) -> None:
    """Mark the run as ended."""
    with contextlib.suppress(OSError), SummaryWriter(str(folder)) as writer:
        _, _, ended = hparams({}, {})
        writer._get_file_writer().add_summary(ended)
