"""Run the code cells of a notebook one after the other, in an empty folder, and keep their outputs in the notebook.

What a cell prints, and what its last line evaluates to, stand below it, as Jupyter shows them: texts, and pictures of
objects that draw themselves (PIL).  A cell that fails ends the program with its traceback, and leaves the file alone.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dist_rmd.files import write_text


def main() -> None:
    """Run the notebook named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", nargs="?", type=Path, default=Path("docs/tour.ipynb"), help="docs/tour.ipynb")
    path = parser.parse_args().notebook.absolute()
    notebook = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run(notebook)
        os.chdir(path.parent)  # out of the folder, which goes
    write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def run(notebook: dict[str, Any]) -> None:
    """Run the code cells in this process, within one namespace; their outputs replace those that they had."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    for number, cell in enumerate(cells, start=1):
        cell["outputs"] = list(_outputs("".join(cell["source"]), names, number))
        cell["execution_count"] = number


def _outputs(source: str, names: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, type_ignores=[]), f"<cell {number}>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)
    if printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())}
    if value is not None:
        data: dict[str, Any] = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_png_"):
            data = {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": [type(value).__name__]}
        yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    main()
