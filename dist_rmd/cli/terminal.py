"""Standard output and error of commands: a closed terminal, a full disk or a vanished reader never changes the work.

A command that produces text ends silently with its reader, as Unix tools do (`run`).  Work that produces files goes on
without a reader (`lasting`).  Letters that a stream's encoding lacks are escaped.
"""

import contextlib
import errno
import functools
import io
import math
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TextIO

from dist_rmd.cli import threads
from dist_rmd.errors import UserError, WriteFailed

P = ParamSpec("P")
Failed = Callable[[int, OSError], None] | None

PATIENCE = 5.0
"""seconds for which work waits for a reader that has stopped reading, before it drops its output"""


def begin() -> None:
    """Make this process a command: ctrl-C gives one line instead of a traceback from now on, and threads share cores.

    Call this function before imports, which take seconds; that of torch reads how threads are to wait.  Closed standard
    streams are opened on /dev/null, so that no file of the command gets the number of a standard stream.
    """
    _take_numbers()
    threads.share_cores()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _interrupt)


def run(main: Callable[[], int | None]) -> int:
    """Call a command's `main` and return its exit code (None: 0); a vanished reader or ctrl-C ends the process."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with _streams(_leave):
        try:
            return main() or 0
        except KeyboardInterrupt:
            _interrupt()


def told(main: Callable[P, int]) -> Callable[P, int]:
    """`main` of a command, which after a UserError prints the error's line and returns the error's exit code."""

    @functools.wraps(main)
    def telling(*args: P.args, **options: P.kwargs) -> int:
        try:
            return main(*args, **options)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.code

    return telling


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Within this context, output that cannot be written is dropped: stdout and stderr may be gone, full or unread."""
    with _streams(None):
        yield


class _Stream(io.FileIO):
    """Standard output or error.  Writing never raises: errors go to `failed`; with None they are dropped."""

    def __init__(self, number: int, failed: Failed):
        self.number, self.failed = number, failed
        self.patience = math.inf if failed else PATIENCE
        own = number if failed else _opened_again(number)
        super().__init__(own, "w", closefd=own != number)

    def write(self, data: Any) -> int:
        piece = memoryview(data)[: select.PIPE_BUF]
        deadline = time.monotonic() + self.patience
        try:
            while (written := super().write(piece)) is None:  # a stream that does not block has no room
                if time.monotonic() > deadline:
                    self.patience = 0  # until there is room again
                    return len(data)
                time.sleep(0.02)
        except OSError as error:
            if self.failed:
                self.failed(self.number, error)
            return len(data)
        if not self.failed:
            self.patience = PATIENCE
        return written


def _opened_again(number: int) -> int:
    """Open a pipe or terminal again, without blocking: other processes share the mode of the first opening."""
    if stat.S_ISFIFO(os.fstat(number).st_mode) or os.isatty(number):
        with contextlib.suppress(OSError):  # it may be a terminal of another user
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return number


def _take_numbers() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, which is `number`


@contextlib.contextmanager
def _streams(failed: Failed) -> Iterator[None]:
    _take_numbers()
    if os.environ.get("COLUMNS") == "0":  # some programs set it for their children, and rich takes it for the width
        del os.environ["COLUMNS"]
    before = sys.stdout, sys.stderr
    made = [_wrapped(stream, number, failed) for number, stream in enumerate(before, start=1)]
    sys.stdout, sys.stderr = made
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for new, old in zip(made, before, strict=True):
            if new is not old:
                new.close()


def _wrapped(stream: TextIO | None, number: int, failed: Failed) -> TextIO:
    """`stream` with its errors sent to `failed`; unchanged where the stream is no file of the system."""
    encoding = "utf-8"
    if stream is not None:  # None: closed when the process began
        try:
            number, encoding = stream.fileno(), stream.encoding
        except (OSError, ValueError):
            return stream
        with contextlib.suppress(OSError):
            stream.flush()
    raw = io.BufferedWriter(_Stream(number, failed))
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True)


def _leave(number: int, error: OSError) -> None:
    """End a command whose standard output cannot be written; an error of standard error alone is ignored."""
    if number != 1:
        return
    if error.errno == errno.EPIPE:
        _die(signal.SIGPIPE)
    _last_words(f"error: standard output: cannot be written ({error.strerror})")
    os._exit(WriteFailed.code)


def _interrupt(*_: int | FrameType | None) -> NoReturn:
    _last_words("interrupted")
    _die(signal.SIGINT)


def _last_words(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _die(number: int) -> NoReturn:
    """End the process by a signal, so that a shell's loop around the command ends, too."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the kernel spares the first process of a container
