"""The parser of all command lines: options in any order; a mistake gives one line that says what would be right."""

import argparse
import difflib
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_origin

from dist_rmd.cli.paths import user_path
from dist_rmd.errors import ConfigError

YAML = (".yaml", ".yml")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")


class Parser(argparse.ArgumentParser):
    """Options may stand before, after and between the other words.  `parse` raises ConfigError for a mistake."""

    _has_configuration = False

    def __init__(self, **options: Any):
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self._explained(message)} (see {self.prog} --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options and words of a command line."""
        return self.parse_intermixed_args(argv)

    def add_configuration(self) -> None:
        """Accept CONFIG.yaml and key=value among the words, which `configuration` separates."""
        self._has_configuration = True
        self.add_argument(
            "words",
            nargs="*",
            metavar="CONFIG.yaml key=value",
            help="a configuration, or a shipped one such as rmdnet/digits (without one the defaults), and keys that "
            "are other than there, such as noise.rate=0.4",
        )

    def add_options_of(
        self,
        plug_in: Callable[..., Any],
        value: Callable[[inspect.Parameter], Callable[[str], Any]],
        but: Collection[str] = (),
    ) -> list[str]:
        """An option for each keyword-only parameter of a plug-in but those named in `but`; returns their names.

        value: turns a parameter into what reads the option's text, or one of its texts where the parameter is a tuple.
        """
        about = inspect.getdoc(plug_in) or ""
        parameters = inspect.signature(plug_in).parameters.values()
        own = [one for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in but]
        for one in own:
            option = f"--{one.name.replace('_', '-')}"
            default, action = one.default, "store"
            if get_origin(one.annotation) is tuple:  # the option is given once for each of several
                default, action = [*one.default], "append"
            self.add_argument(option, type=value(one), default=default, action=action, help=meaning(one.name, about))
        return [one.name for one in own]

    def _explained(self, message: str) -> str:
        """argparse's message; for an unknown option, with the option that was probably meant."""
        unknown = message.removeprefix("unrecognized arguments: ").split(" ")[0]
        if unknown == message.split(" ")[0] or not unknown.startswith("-"):
            return message
        name, equals, value = unknown.lstrip("-").partition("=")
        known = re.findall(r"--[\w-]+", self.format_usage())
        near = difflib.get_close_matches(unknown.partition("=")[0], known, n=1, cutoff=0.7)
        if near:
            return f"{unknown}: there is no such option; did you mean {near[0]}?"
        if self._has_configuration and (DOTTED.fullmatch(name) or equals):
            return f"{unknown}: there is no such option; a key is given without dashes: {name}={value or 'VALUE'}"
        return message


def meaning(parameter: str, about: str) -> str:
    """The text of the line `parameter: ...` in the docstring `about`; empty without such a line."""
    line = re.search(rf"^{parameter}: (.*?)\.?$", about, re.MULTILINE)
    return line[1] if line else ""


def configuration(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Separate words into CONFIG.yaml (None without one) and key=value.  Raises ConfigError, with a suggestion."""
    files = [word for word in words if "=" not in word or (word.endswith(YAML) and Path(word).is_file())]
    overrides = [word for word in words if word not in files]
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("="):
            raise ConfigError(f"{before} {word}: a key and its value are one word: {before or 'KEY'}=VALUE")
    for word in files:
        if DOTTED.fullmatch(word) and not word.endswith(YAML) and not Path(word).exists():
            raise ConfigError(f"{word}: a key needs a value: {word}=VALUE")
    if len(files) > 1:
        raise ConfigError(f"{files[0]} and {files[1]}: one configuration at most, then key=value")
    return (user_path(files[0]) if files else None), overrides
