"""Errors a user can mend.  The message is one line: what, where, what to do.  `code` is the process's exit code.

Everything else is a bug: it keeps its traceback and exits with 1.
"""

from typing import Any


class UserError(Exception):
    """Base of all errors that are shown as one line instead of a traceback.

    agreed: every rank raises it, so one of them is enough to say it.  facts: more for exit.json.
    """

    code = 1

    def __init__(self, message: str, agreed: bool = False, **facts: Any):
        super().__init__(message)
        self.agreed, self.facts = agreed, facts


class ConfigError(UserError):
    """A wrong command line or configuration."""

    code = 2


class DataError(UserError):
    """Broken or missing data, or no valid checkpoint."""

    code = 65


class LostPeer(UserError):
    """Another rank died or hangs: the cause is with that rank, and starting again goes on."""


class NonFiniteLoss(UserError):
    """A loss term became NaN or infinite."""

    code = 70


class CannotCreate(UserError):
    """An output that cannot be created."""

    code = 73


class WriteFailed(UserError):
    """An output that broke while it was written (disk full, input/output error)."""

    code = 74


class Stopped(UserError):
    """Stopped on request, after a checkpoint: starting again goes on as if nothing had happened."""

    code = 75
