"""State of a job in SLURM's words, and the log of its first task."""

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_rmd.errors import UserError

RUNNING = "RUNNING"
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
}  # fmt: skip
POLL, SILENT = 2.0, 600.0
"""seconds: between two looks; without an answer of SLURM's, until nobody waits for one any longer"""
LAST = 10
"""lines of a log that say how a job ended"""


@dataclass(frozen=True)
class State:
    """What is shown of a job; `code` is its exit code once it has ended, None before.  `known`: SLURM said so."""

    text: str
    code: int | None = None
    known: bool = True


def scontrol(*words: str) -> list[dict[str, str]]:
    """`scontrol WORDS` -> what it prints as Name=value, a line each.  Raises UserError with the words of SLURM."""
    try:
        done = subprocess.run(["scontrol", "--oneliner", *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"scontrol: {error}") from None
    if done.returncode:
        raise UserError(in_slurms_words(done.stderr))
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in done.stdout.splitlines()]


def in_slurms_words(stderr: str) -> str:
    """What a program of SLURM complains of, on one line."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def slurm_state(job_id: str) -> State:
    """The job as the controller knows it, which forgets a job some minutes after its end."""
    try:
        return _state(scontrol("show", "job", job_id)[0])
    except UserError as error:
        return _unknown(error)


def array_states(job_id: str, numbers: Sequence[int]) -> dict[str, State]:
    """The elements of a job array, by their ids such as 12_3."""
    ids = [f"{job_id}_{number}" for number in numbers]
    try:
        jobs = scontrol("show", "job", job_id)
    except UserError as error:
        return dict.fromkeys(ids, _unknown(error))
    begun = {f"{job_id}_{job['ArrayTaskId']}": _state(job) for job in jobs}  # those not begun have one line together
    return {name: begun.get(name, State("PENDING")) for name in ids}


def _state(job: Mapping[str, str]) -> State:
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


def _unknown(error: UserError) -> State:
    return State(f"unknown: {error}", code=1 if "Invalid job id" in str(error) else None, known=False)


def follow(look: Callable[[], State], log: Path, say: Callable[[str], None]) -> int:
    """Say each new state and each new line of the log until the job has ended.  Returns its exit code."""
    shown, position, answered = "", 0, time.monotonic()
    while True:
        state = look()  # before the log: what was written until the end is to be seen
        answered = time.monotonic() if state.known else answered
        if state.code:
            time.sleep(POLL)  # a shared file system shows the last words somewhat later
        position = _rest(log, position, say, whole=state.code is None)
        if state.text != shown:
            say(f"[{time.strftime('%H:%M:%S')}] {state.text}")
            shown = state.text
        if state.code is not None:
            return state.code
        if time.monotonic() - answered > SILENT:
            return 1
        time.sleep(POLL)


def follow_all(look: Callable[[], Mapping[str, State]], log: Callable[[str], Path], say: Callable[[str], None]) -> int:
    """Say each new state of several jobs until all have ended, and of a failed one the last lines of its log.

    log: where it is, from the job's id.  Returns the largest of their exit codes.
    """
    last: dict[str, State] = {}
    answered = time.monotonic()
    while True:
        states = look()
        answered = time.monotonic() if all(state.known for state in states.values()) else answered
        for name, state in states.items():
            before = last.get(name)
            if before == state or (before and before.code is not None):  # one that has ended may be forgotten
                continue
            last[name] = state
            say(f"[{time.strftime('%H:%M:%S')}] {name}: {state.text}")
            if state.code:
                lines: list[str] = []
                _rest(log(name), 0, lines.append, whole=False)
                for line in lines[-LAST:]:
                    say(f"    {line}")
                say(f"    ({log(name)})")
        codes = [state.code for state in last.values() if state.code is not None]
        if len(codes) == len(states):
            return max(codes)
        if time.monotonic() - answered > SILENT:
            return 1
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
