"""How a job is doing, in SLURM's words, and what its first task says."""

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dist_rmd.errors import UserError

RUNNING = "RUNNING"
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
}  # fmt: skip
POLL = 2.0
"""seconds between two looks"""


@dataclass(frozen=True)
class State:
    """What is shown of a job; `code` is its exit code once it has ended, None before."""

    text: str
    code: int | None = None


def scontrol(*words: str) -> dict[str, str]:
    """`scontrol WORDS` -> what it prints as Name=value.  Raises UserError with the words of SLURM."""
    try:
        done = subprocess.run(["scontrol", "--oneliner", *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"scontrol: {error}") from None
    if done.returncode:
        raise UserError(in_slurms_words(done.stderr))
    return dict(re.findall(r"(\w+)=(\S*)", done.stdout))


def in_slurms_words(stderr: str) -> str:
    """What a program of SLURM complains of, on one line."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def slurm_state(job_id: str) -> State:
    """The job as the controller knows it, which forgets a job some minutes after its end."""
    try:
        job = scontrol("show", "job", job_id)
    except UserError as error:
        return State(f"unknown: {error}", code=1 if "Invalid job id" in str(error) else None)
    state, restarts = job["JobState"], int(job.get("Restarts", 0))
    text = state
    if state == "PENDING":
        text += f" ({job['Reason']})"
    elif state not in ENDED:
        text += f" on {job['NodeList']}"
    if restarts:
        text += f", restarts: {restarts}"
    if state not in ENDED:
        return State(text)
    code, number = (int(part) for part in job["ExitCode"].split(":"))
    code = code or (128 + number if number else int(state != "COMPLETED"))
    return State(f"{text}, exit code {code}", code)


def follow(look: Callable[[], State], log: Path, say: Callable[[str], None]) -> int:
    """Say each new state and each new line of the log until the job has ended.  Returns its exit code."""
    shown, position = "", 0
    while True:
        state = look()  # before the log: what was written until the end is to be seen
        position = _rest(log, position, say, whole=state.code is None)
        if state.text != shown:
            say(f"[{time.strftime('%H:%M:%S')}] {state.text}")
            shown = state.text
        if state.code is not None:
            return state.code
        time.sleep(POLL)


def _rest(log: Path, position: int, say: Callable[[str], None], whole: bool) -> int:
    """Say the lines after `position`, unfinished ones only if not `whole`.  Returns where they end."""
    try:
        with open(log, "rb") as file:
            file.seek(position)
            new = file.read()
    except FileNotFoundError:  # not begun
        return position
    if whole:
        new = new[: new.rfind(b"\n") + 1]
    for line in new.decode(errors="replace").splitlines():
        say(line)
    return position + len(new)
