"""The processor, told without torch."""

import os
import platform
from pathlib import Path


def cpu() -> str:
    """Its name and how many cores this process may use."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].split(":")[1].strip() if models else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
