"""What TensorBoard shows of a whole run: its configuration as text, and its entry in the table of hyper-parameters.

The entry has the settings; its scores are the last values of the stages' curves, which lie in folders below.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

Setting = str | bool | int | float


def show_start(folder: Path, configuration: str, settings: Mapping[str, Setting]) -> None:
    """Write both anew into `folder`, that of the run above those of its stages, as of a run under way.

    Training does not depend on them: where they cannot be written, nothing is said.
    """
    with contextlib.suppress(OSError):
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder)) as writer:
            writer.add_text("configuration", "".join(f"    {line}\n" for line in configuration.splitlines()))
            _, begun, _ = hparams(dict(settings), {})  # without the list of columns, of which TensorBoard reads one
            writer._get_file_writer().add_summary(begun)


def show_end(folder: Path) -> None:
    """The run has come to its end."""
    with contextlib.suppress(OSError), SummaryWriter(str(folder)) as writer:
        _, _, ended = hparams({}, {})
        writer._get_file_writer().add_summary(ended)
