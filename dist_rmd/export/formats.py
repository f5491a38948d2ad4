"""File formats of `dist-rmd export`: the outputs of each file are compared with the network's before it is written."""

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_rmd.cli import extras
from dist_rmd.errors import UserError
from dist_rmd.export import key_names
from dist_rmd.export.deployed import Deployed
from dist_rmd.run.saved import SavedNetwork

TOLERANCE = 1e-5
"""largest difference between a file's outputs and the network's; relative to the largest output if that is above 1"""
TRIED = (1, 3)
"""batch sizes of the comparison: a file takes batches of any size"""
ABOUT = "dist_rmd.json"
"""name of the part of a TorchScript file that holds the metadata"""


@dataclass(frozen=True)
class Exported:
    """An exported file in memory, with the Python that loads it."""

    content: bytes
    lines: tuple[str, ...]
    """lines of Python that load the file {path} and compute the outputs of `images`"""
    difference: float | None
    """largest difference from the network's outputs; None if nothing that runs the file is installed"""


def metadata(saved: SavedNetwork, output: str) -> dict[str, str]:
    """Metadata of a file: classes, image side, normalisation, output and origin; lists are JSON."""
    origin, side = saved.origin, saved.origin.side
    return {
        "classes": json.dumps(origin.classes),
        "side": str(side),
        "mean": json.dumps(origin.mean),
        "std": json.dumps(origin.std),
        "resize": f"shorter side to {side} (antialiased bicubic), then the centre {side} x {side}; as dist-rmd prepare",
        "images": f"N x 3 x {side} x {side} float32, RGB in 0..1",
        "output": output,
        "stage": origin.stage,
        "trained": saved.when,
        "key": origin.key,
    }


def safetensors(saved: SavedNetwork, deployed: Deployed, names: str = "dist_rmd") -> Exported:
    """Export the weights alone, under the key names of a library; the metadata holds the normalisation."""
    with extras.explained():
        from safetensors import torch as library
    key_names.check(saved, names)
    output = "logits" if saved.is_classifier else "features"
    tensors = key_names.state_dict(saved, names)
    about = metadata(saved, output) | key_names.metadata(saved, names) | {"normalised": "no: by mean and std, first"}
    content = library.save(tensors, about)
    origin = saved.origin
    lines = (
        "import json",
        "import torch",
        "from safetensors import safe_open",
        "from safetensors.torch import load_file",
        *key_names.builder(saved, names),
        'net.load_state_dict(load_file("{path}"))',
        "net.eval()",
        'with safe_open("{path}", "pt") as file:',
        '    classes = json.loads(file.metadata()["classes"])',
        f"mean, std = torch.tensor([{list(origin.mean)}, {list(origin.std)}]).view(2, 3, 1, 1)",
        f"normalised = (images - mean) / std  # images: {about['images']}",
        f"{output} = {key_names.call(saved, names)}",
    )
    plain = replace(saved, weights=_parts(library.load(content), saved, names))
    reference = Deployed(saved)
    return Exported(content, lines, _difference(reference, Deployed(plain), saved))


def onnx(saved: SavedNetwork, deployed: Deployed) -> Exported:
    """Export the whole graph, normalisation included, for ONNX Runtime and other readers of ONNX."""
    with extras.explained():
        import onnx as library
        import onnxscript  # noqa: F401  (torch's exporter needs it, and says so in a traceback)
    side, output = saved.origin.side, deployed.output
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            deployed,
            (torch.rand(2, 3, side, side),),
            input_names=["images"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    library.helper.set_model_props(model, metadata(saved, output))
    content = model.SerializeToString()
    lines = (
        "import json",
        "import onnxruntime",
        'net = onnxruntime.InferenceSession("{path}")',
        'classes = json.loads(net.get_modelmeta().custom_metadata_map["classes"])',
        f'({output},) = net.run(None, {{"images": images}})  # images: {metadata(saved, output)["images"]}, of numpy',
    )
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return Exported(content, lines, None)
    session = onnxruntime.InferenceSession(content)
    run: Callable[[Tensor], Tensor] = lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])  # noqa: E731
    return Exported(content, lines, _difference(deployed, run, saved))


def torchscript(saved: SavedNetwork, deployed: Deployed) -> Exported:
    """Export the whole graph, normalisation included, for torch without this package: in Python, C++ or on a phone."""
    side, output = saved.origin.side, deployed.output
    file = io.BytesIO()
    about = json.dumps(metadata(saved, output))
    with warnings.catch_warnings():  # torch advises torch.export, whose files neither C++ nor older torch reads
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(deployed, torch.rand(2, 3, side, side))
        torch.jit.save(traced, file, _extra_files={ABOUT: about})
        back = torch.jit.load(io.BytesIO(file.getvalue()))
    lines = (
        "import json",
        "import torch",
        f'about = {{"{ABOUT}": ""}}',
        'net = torch.jit.load("{path}", _extra_files=about)',
        f'classes = json.loads(json.loads(about["{ABOUT}"])["classes"])',
        f"{output} = net(images)  # images: {metadata(saved, output)['images']}",
    )
    return Exported(file.getvalue(), lines, _difference(deployed, back, saved))


FORMATS: dict[str, tuple[str, Callable[..., Exported]]] = {
    "safetensors": (".safetensors", safetensors),
    "onnx": (".onnx", onnx),
    "torchscript": (".pt", torchscript),
}
"""name of a format -> suffix of the file, function that makes the file"""


def lines_for(exported: Exported, path: Path) -> list[str]:
    """Fill the path, escaped as in a Python string, into the lines of Python that load the file."""
    written = json.dumps(str(path))[1:-1]
    return [line.replace("{path}", written) for line in exported.lines]


def _parts(tensors: dict[str, Tensor], saved: SavedNetwork, names: str) -> dict[str, dict[str, Any]]:
    """Sort a file's tensors back into the network's parts by their names, so that the comparison tests the file."""
    places = key_names.places(saved, names)
    parts: dict[str, dict[str, Any]] = {part: {} for part in saved.weights}
    for key, tensor in tensors.items():
        part, _, below = places[key].partition(".")
        parts[part][below] = tensor
    return parts


@torch.no_grad()
def _difference(network: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], saved: SavedNetwork) -> float:
    """Largest difference between the outputs of two networks on images of noise.

    Raises UserError if the difference is above the tolerance.
    """
    generator, side = torch.Generator().manual_seed(0), saved.origin.side
    largest = 0.0
    for images in (torch.rand(count, 3, side, side, generator=generator) for count in TRIED):
        expected, found = network(images), other(images)
        difference = (expected - found).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
            raise UserError(f"nothing is written: the exported outputs differ from the network's by {difference:.3g}")
        largest = max(largest, difference)
    return largest
