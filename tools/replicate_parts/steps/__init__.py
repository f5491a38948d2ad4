"""All steps, the most wanted first."""

from tools.replicate_parts.step import Step
from tools.replicate_parts.steps import checks, images, machine, modul, profile, relations, simsiam, speed

STEPS: tuple[Step, ...] = (
    images.STEP,
    machine.STEP,
    checks.STEP,
    speed.STEP,
    profile.STEP,
    simsiam.STEP,
    relations.STEP,
    modul.STEP,
)
