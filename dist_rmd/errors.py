"""Errors a user can mend.  The message is one line: what, where, what to do.  `code` is the process's exit code.

Everything else is a bug: it keeps its traceback and exits with 1.
"""


class UserError(Exception):
    """Base of all errors that are shown as one line instead of a traceback."""

    code = 1


class ConfigError(UserError):
    """A wrong command line or configuration."""

    code = 2


class DataError(UserError):
    """Broken or missing data, or no valid checkpoint."""

    code = 65


class NonFiniteLoss(UserError):
    """A loss term became NaN or infinite."""

    code = 70


class CannotCreate(UserError):
    """An output that cannot be created."""

    code = 73


class WriteFailed(UserError):
    """An output that broke while it was written (disk full, input/output error)."""

    code = 74
