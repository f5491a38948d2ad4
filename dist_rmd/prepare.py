"""Write a dataset as the .beton files that training reads: python -m dist_rmd.prepare NAME OUT [--from DIR]."""

import argparse
import inspect
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dist_rmd import registry
from dist_rmd.cli import terminal
from dist_rmd.cli.command_line import Parser
from dist_rmd.cli.paths import user_path
from dist_rmd.cli.progress import track
from dist_rmd.config import shipped
from dist_rmd.data.datasets.base import RawDataset
from dist_rmd.data.images.pictures import allow_pixels
from dist_rmd.data.prepared import beton
from dist_rmd.data.prepared.open_set import read_exclusions, with_open_set
from dist_rmd.data.prepared.relabelled import relabelled
from dist_rmd.errors import CannotCreate, ConfigError

DESCRIPTION = """\
Write a dataset as FFCV's .beton files, with its labels, class names and colour statistics, into the folder OUT.
Training reads OUT and nothing else (data.path=OUT); every noise setting shares it.

NAME is one of
  digits         1,797 handwritten digits, 8 x 8, which come with scikit-learn: no download
  cifar10        torchvision's archive, 32 x 32: found in --from DIR, or downloaded to ~/.cache/dist_rmd
  cifar100       the same with 100 classes
  folder         your own images, of any size: DIR/train/<class>/* and DIR/test/<class>/* (or val/), or DIR/<class>/*
  listed         images that lists name: DIR/train.csv and DIR/test.csv, or others such as Clothing1M's
  sheets         images of 32 x 32 tiled into large pictures: DIR/train/index.csv and sheets, DIR/test likewise
  tiny_imagenet  Tiny ImageNet as published, 64 x 64: wnids.txt, words.txt, train/ and val/ in DIR
  webvision      WebVision 1.0 as published, 64 x 64: info/, google/, flickr/ and val_images_256/ in DIR
or of another file in dist_rmd/data/datasets/.  NAME --help lists the options that one of them has for itself.
"""
EPILOG = """\
examples:
  python -m dist_rmd.prepare digits data/digits
  python -m dist_rmd.prepare cifar10 data/cifar10 --from ~/downloads
  python -m dist_rmd.prepare folder data/pets --from ~/pets --side 64 --skip-bad
  python -m dist_rmd.prepare cifar10 data/cifar10-open --open ~/imagenet/train \\
      --exclude configs/modul/exclude-cifar10.txt
  python -m dist_rmd.prepare folder data/pets-cleaned --from ~/pets --labels runs/pets/suspects.csv
  python -m dist_rmd.prepare webvision data/webvision --from ~/webvision --test ~/tiny-imagenet-200 --skip-bad

exit codes: 0 done, 2 wrong command line, 65 bad data, 73 OUT cannot be created or is taken, 74 writing failed
"""


@terminal.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (sys.argv[1:] when None); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    named = [word for word in words if word in registry.available("data.datasets")]
    parser = _parser()
    own = parser.add_options_of(registry.lookup("data.datasets", named[0]), _reader) if named else []
    arguments = parser.parse(words)
    with warnings.catch_warnings():
        # Pillow's warnings about EXIF and the like, which do not change pixels
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        with terminal.lasting():
            _prepare(arguments, own)
    return 0


def _prepare(args: argparse.Namespace, own: Sequence[str]) -> None:
    dataset = registry.lookup("data.datasets", args.name)
    if beton.manifest_path(args.out).exists() and not args.overwrite:
        raise CannotCreate(f"{args.out}: holds a prepared dataset already; choose another OUT, or --overwrite it")
    if args.side is not None and not 4 <= args.side <= 1024:
        raise ConfigError(f"--side {args.side} is outside 4..1024")
    if args.exclude and not args.open:
        raise ConfigError(f"--exclude {args.exclude} is for --open DIR: it lists folders of DIR to leave out")
    if args.max_megapixels is not None:
        if not args.max_megapixels > 0:
            raise ConfigError(f"--max-megapixels {args.max_megapixels:g} allows no image")
        allow_pixels(args.max_megapixels)
    source: RawDataset = dataset(args.origin, args.side, **{name: getattr(args, name) for name in own})
    source = replace(source, verified=source.verified and not args.unverified)
    if args.open:
        if not source.verified:
            raise ConfigError("--open is for noise made on purpose, which only verified labels can be given")
        excluded = read_exclusions(shipped.find(args.exclude, ".txt")) if args.exclude else ()
        source = with_open_set(source, args.open, excluded)
    if args.labels:
        source = relabelled(source, args.labels)
    _summarise(beton.write(source, args.out, args.skip_bad, track), args.out)


def _summarise(dataset: beton.Dataset, out: Path) -> None:
    some = ", ".join(dataset.classes[:10]) + (", ..." if len(dataset.classes) > 10 else "")
    print(f"{dataset.name}: {dataset.side} x {dataset.side} pixels, {len(dataset.classes)} classes ({some})")
    opened = {"train": dataset.open_images}
    for split, images in dataset.sizes.items():
        print(f"{split}: {images - opened.get(split, 0)} images, {len(dataset.skipped[split])} skipped")
    if dataset.open_images:
        left_out = f"{len(dataset.excluded)} folders are left out"
        print(f"open set: {dataset.open_images} images show none of the classes; {left_out}")
    if dataset.held_out:
        print("test: DIR has no test images; a tenth of every class is held out, under its given labels")
    if not dataset.verified:
        print("train: the labels are as given; nobody knows which of them are right")
    for name, values in {"mean": dataset.mean, "std": dataset.std}.items():
        print(f"{name}: {' '.join(f'{value:.4f}' for value in values)}")
    print(f"written to {out}: train with data.path={out}")


def _reader(parameter: inspect.Parameter) -> Callable[[str], str | Path]:
    """Return the parser of a dataset's own option: `str` if the option's default is a text, else `user_path`."""
    return str if isinstance(parameter.default, str) else user_path


def _parser() -> Parser:
    parser = Parser(
        prog="dist-rmd prepare",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("name", metavar="NAME", help="which dataset")
    parser.add_argument("out", metavar="OUT", type=user_path, help="folder to write; made if it is not there")
    parser.add_argument("--from", dest="origin", metavar="DIR", type=user_path, help="folder with images or archives")
    parser.add_argument(
        "--side",
        metavar="S",
        type=int,
        help="write images of S x S pixels: the shorter side is resized to S, the centre cropped (default: "
        "the dataset's own; 32 for folder)",
    )
    parser.add_argument(
        "--open",
        metavar="DIR",
        type=user_path,
        help="add all images of DIR, which show none of the classes, for noise.kind=openset",
    )
    parser.add_argument(
        "--exclude",
        metavar="FILE",
        type=user_path,
        help="folders of the open DIR that show one of the classes: a name a line",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        type=user_path,
        help="take the training images that a table with columns file and label lists, under these labels, and no "
        "others; such as the table of `report suspects`",
    )
    parser.add_argument(
        "--unverified", action="store_true", help="the training labels may be wrong: nothing is measured against them"
    )
    parser.add_argument(
        "--max-megapixels",
        metavar="N",
        type=float,
        help="read images of up to N million pixels (default: 179, Pillow's guard against files that fill the memory)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="list unreadable images in manifest.json, and go on")
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset in OUT once the new one is whole")
    return parser


if __name__ == "__main__":
    # A job scheduler's SIGTERM ends the command like an exception, so that half-written files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(terminal.run(main))
