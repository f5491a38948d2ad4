"""Follows a SLURM job: its state in SLURM's words, and the log of its first task."""

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
"""seconds between two queries of SLURM; seconds without an answer after which following a job ends"""
LAST = 10
"""last lines of a failed job's log that are shown"""


@dataclass(frozen=True)
class State:
    """State of a job as shown text; `code`: exit code, None before the end; `known`: whether SLURM has answered."""

    text: str
    code: int | None = None
    known: bool = True


def scontrol(*words: str) -> list[dict[str, str]]:
    """Run `scontrol WORDS`; returns the Name=value pairs of every line.  Raises UserError with SLURM's message."""
    try:
        done = subprocess.run(["scontrol", "--oneliner", *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"scontrol: {error}") from None
    if done.returncode:
        raise UserError(in_slurms_words(done.stderr))
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in done.stdout.splitlines()]


def in_slurms_words(stderr: str) -> str:
    """Error messages of a SLURM program, on one line, without repetitions."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def slurm_state(job_id: str) -> State:
    """Ask SLURM's controller for the state of a job.  The controller forgets a job some minutes after its end."""
    try:
        return _state(scontrol("show", "job", job_id)[0])
    except UserError as error:
        return _unknown(error)


def array_states(job_id: str, numbers: Sequence[int]) -> dict[str, State]:
    """Ask SLURM for the state of every element of a job array, by ids such as 12_3."""
    ids = [f"{job_id}_{number}" for number in numbers]
    try:
        jobs = scontrol("show", "job", job_id)
    except UserError as error:
        return dict.fromkeys(ids, _unknown(error))
    begun = {f"{job_id}_{job['ArrayTaskId']}": _state(job) for job in jobs}  # pending ones share one line
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
    """Show each new state and each new line of the log until the job has ended.  Returns the job's exit code."""
    shown, position, answered = "", 0, time.monotonic()
    while True:
        state = look()  # before the log, so that the log's last lines are shown, too
        answered = time.monotonic() if state.known else answered
        if state.code:
            time.sleep(POLL)  # a shared file system shows the last lines somewhat later
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
    """Show each new state of several jobs until all have ended; of a failed job also the last lines of its log.

    log: id of a job -> path of its log.  Returns the largest exit code of the jobs.
    """
    last: dict[str, State] = {}
    answered = time.monotonic()
    while True:
        states = look()
        answered = time.monotonic() if all(state.known for state in states.values()) else answered
        for name, state in states.items():
            before = last.get(name)
            if before == state or (before and before.code is not None):  # SLURM forgets ended jobs
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
    """Show the lines of the log after byte `position`; returns the new position.  whole: only complete lines."""
    try:
        with open(log, "rb") as file:
            file.seek(position)
            new = file.read()
    except FileNotFoundError:  # the job has not begun
        return position
    if whole:
        new = new[: new.rfind(b"\n") + 1]
    for line in new.decode(errors="replace").splitlines():
        say(line)
    return position + len(new)
