"""python -m dist_rmd.report [WHAT] RUN...: tables and figures from run folders."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dist_rmd.errors import UserError
from dist_rmd.registry import available, lookup


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors)."""
    kinds = available("reports")
    listing = "\n".join(f"  {kind:<10} {lookup('reports', kind).__doc__.splitlines()[0]}" for kind in kinds)
    parser = argparse.ArgumentParser(
        prog="python -m dist_rmd.report",
        description="Tables and figures from run folders.",
        epilog=f"WHAT is one of:\n{listing}\nWithout it: summary.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arguments", nargs="+", metavar="[WHAT] RUN", help="run folders, such as runs/digits")
    words = parser.parse_args(argv).arguments
    what = words.pop(0) if words[0] in kinds else "summary"
    try:
        if not words:
            parser.error(f"{what} of which run? name at least one run folder")
        print(lookup("reports", what)([Path(word) for word in words]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
