"""What the machine is, and its limits: matrix products by precision, copies on the device and to it."""

import os
import platform
import subprocess
from collections.abc import Iterator

import torch

from tools.bench_parts.host import cpu
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table, short
from tools.bench_parts.timing import Way, turns

GIB = 2**30


def measure(settings: Settings) -> Iterator[Table]:
    yield Table("The machine", "", [Row(what, facts={"found": found}) for what, found in facts(settings).items()])
    precisions = (torch.bfloat16, torch.float32, torch.float64) if settings.gpu else (torch.float32, torch.float64)
    rows = []
    for dtype in precisions:
        size = matrix_size(settings)
        rate = matrix_rate(settings, dtype)
        rows.append(
            Row(
                f"matrix product {size} x {size}, {str(dtype).removeprefix('torch.')}",
                facts={"TFLOP/s": f"{rate / 1e12:.3g}"},
            )
        )
    copies = {"copy, read and written": copy_rate(settings)}
    if settings.gpu:
        copies["copy from pinned memory of the host"] = upload_rate(settings)
    rows += [Row(what, facts={"GB/s": short(rate / 1e9)}) for what, rate in copies.items()]
    yield Table("Its limits", "The best round of each: what slows others down is not the device. TF32 is off.", rows)


def facts(settings: Settings) -> dict[str, str]:
    """What -> what it is here."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {"CPU": cpu(), "memory": f"{memory / GIB:.0f} GiB"}
    if settings.gpu:
        gpu = torch.cuda.get_device_properties(0)
        found |= {
            "GPU": f"{torch.cuda.device_count()} x {gpu.name}, compute capability {gpu.major}.{gpu.minor}",
            "GPU memory": f"{gpu.total_memory / GIB:.0f} GiB",
            "driver": driver(),
            "CUDA, cuDNN": f"{torch.version.cuda}, {torch.backends.cudnn.version()}",
        }
    return found | {"torch": torch.__version__, "Python": platform.python_version(), "system": platform.platform()}


def driver() -> str:
    """NVIDIA's version number."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        return said.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def limits(settings: Settings) -> tuple[float, float]:
    """FLOP/s of a matrix product in the precision of the training, and bytes/s that a copy reads and writes."""
    return matrix_rate(settings, settings.autocast or torch.float32), copy_rate(settings)


def matrix_size(settings: Settings) -> int:
    return settings.sized(1024, 8192, 256)


def matrix_rate(settings: Settings, dtype: torch.dtype) -> float:
    """FLOP/s of a large product."""
    size = matrix_size(settings)
    a, b = torch.randn(2, size, size, device=settings.device).to(dtype)
    return 2 * size**3 / _best(settings, lambda: torch.mm(a, b))


def copy_rate(settings: Settings) -> float:
    """Bytes/s, read and written, of a large copy in the device's memory."""
    source = torch.zeros(settings.sized(2**25, 2**29, 2**20), dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    return 2 * len(source) / _best(settings, lambda: target.copy_(source))


def upload_rate(settings: Settings) -> float:
    """Bytes/s of a large copy to the GPU."""
    source = torch.zeros(2**28, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=settings.device)
    return len(source) / _best(settings, lambda: target.copy_(source, non_blocking=True))


def _best(settings: Settings, way: Way) -> float:
    """Seconds of the best round."""
    (times,) = turns({"": way}, settings.rounds, settings.device).values()
    return min(times)
