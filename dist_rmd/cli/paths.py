"""Paths as people write them: ~ is the home folder, wherever a path is given."""

from pathlib import Path

from dist_rmd.errors import ConfigError


def home() -> Path | None:
    """The user's home folder; None for users who have none, as in many containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def user_path(text: str) -> Path:
    """The path that `text` means.  Raises ConfigError for the home folder of nobody known."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        first = Path(text).parts[0]
        raise ConfigError(
            f"{text}: there is no home folder that {first} could stand for; ./{first} is a folder of that name"
        ) from None
