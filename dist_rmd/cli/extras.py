"""Libraries that only some commands need, and the extra of the package that installs each."""

import contextlib
from collections.abc import Iterator

from dist_rmd.errors import ConfigError

EXTRAS = {
    "ffcv": "ffcv",
    "matplotlib": "plots",
    "mlflow": "mlflow",
    "onnx": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "submitit": "slurm",
    "timm": "timm",
    "wandb": "wandb",
}
"""name of the imported library -> name of the extra"""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Within this context, importing a missing library of EXTRAS raises a ConfigError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        raise ConfigError(f"{library} is not installed: pip install 'dist_rmd[{EXTRAS[library]}]'") from None
