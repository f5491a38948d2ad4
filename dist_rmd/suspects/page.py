"""The page on which people look at suspect labels and decide: one HTML file that needs no network and no server.

The content security policy allows the page's own script and style, by their hashes, and nothing else, so HTML or script
in the name of a file or class cannot run.
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Callable
from importlib.resources import files as resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_rmd.suspects.ranking import Ranking

ACROSS = 16  # pictures in a row of a sheet, and rows in a sheet
LARGEST = 64  # side of a picture on the page
QUALITY = 85  # of the WebP encoder
SMALL = 32  # pictures below this side are saved without loss: neighbours in a sheet would blur into each other

Integers = NDArray[np.int64]

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<div><h1>{title}</h1><p>{about}</p><span class="grow"></span><p id="tally"></p>
<button id="save">Save labels.csv</button></div>
<div><label>given <select id="given"></select></label>
<label>proposed <select id="proposed"></select></label>
<label>show <select id="show"></select></label><p id="count"></p><span class="grow"></span>
<label>images not looked at <select id="others"><option value="given">keep their labels</option>\
<option value="probable">take the most probable class</option></select></label></div>
</header>
<main id="list" tabindex="0"><div id="space"></div></main>
<aside><div id="detail"></div>
<p class="keys"><kbd>K</kbd> keep the given label<br>\
<kbd>R</kbd> relabel as proposed<br><kbd>D</kbd> drop the image<br><kbd>U</kbd> \
undecided again<br><kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> move</p></aside>
<script type="application/json" id="data">{data}</script>
{sheets}
<script>{script}</script>
</body>
</html>
"""


def page(ranking: Ranking, title: str, about: str, most: int, pictures: Callable[[Integers], NDArray[np.uint8]]) -> str:
    """The whole page as HTML, with pictures of the `most` most suspect images.

    The table that the page saves lists the other images, too.  pictures: a function, places in the ranking (n int64) ->
    pixels n x S x S x 3 uint8.
    """
    script, style = (resources(__package__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("js", "css"))
    policy = f"default-src 'none'; img-src blob:; script-src {_hash(script)}; style-src {_hash(style)}"
    shown = np.arange(min(most, len(ranking)))
    sheets = [
        f'<script type="text/plain" id="sheet{number}">{_sheet(pictures(rows))}</script>'
        for number, rows in enumerate(np.split(shown, range(ACROSS**2, len(shown), ACROSS**2)))
    ]
    return PAGE.format(
        policy=policy,
        title=html.escape(title),
        about=html.escape(about),
        style=style,
        data=_inert(_content(ranking, len(shown))),
        sheets="\n".join(sheets),
        script=script,
    )


def _content(ranking: Ranking, shown: int) -> dict[str, Any]:
    """The data that the page's script works on."""
    columns: dict[str, Any] = {
        name: getattr(ranking, name)[:shown].tolist() for name in ("given", "proposed", "probable", "twins")
    }
    for name in ("score", "p_given", "neighbours"):
        columns[name] = [round(value, 4) for value in getattr(ranking, name)[:shown].tolist()]
    told = json.dumps([list(ranking.files), ranking.given.tolist(), list(ranking.classes)])
    return {
        "classes": list(ranking.classes),
        "files": list(ranking.files[:shown]),
        "sets": list(ranking.sets[:shown]),
        **columns,
        "rest": {
            "files": list(ranking.files[shown:]),
            "given": ranking.given[shown:].tolist(),
            "probable": ranking.probable[shown:].tolist(),
        },
        "across": ACROSS,
        "tiles": ACROSS**2,
        "digest": hashlib.sha256(told.encode()).hexdigest(),
    }


def _inert(content: Any) -> str:
    """`content` as JSON that cannot end the HTML element around it."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _sheet(images: NDArray[np.uint8]) -> str:
    """Up to ACROSS x ACROSS images as the tiles of one picture, in base64."""
    side = min(LARGEST, images.shape[1])
    sheet = Image.new("RGB", (ACROSS * side, ACROSS * side))
    for place, pixels in enumerate(images):
        tile = Image.fromarray(pixels)
        sheet.paste(
            tile if tile.width == side else tile.resize((side, side), Image.Resampling.BOX),
            (place % ACROSS * side, place // ACROSS * side),
        )
    content = io.BytesIO()
    sheet.save(content, "WEBP", quality=QUALITY, lossless=side < SMALL)
    return base64.b64encode(content.getvalue()).decode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
