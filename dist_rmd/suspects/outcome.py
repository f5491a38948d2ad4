"""The page that says what came of cleaning a folder: accuracies before and after, suspects, and the commands typed."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from dist_rmd.text.escapes import visible

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "td,th{padding:.2em 1em;text-align:right}td:first-child,th:first-child{text-align:left;padding-left:0}"
    "pre{background:#f3f3f3;padding:1em;overflow-x:auto}img{max-width:100%}"
)
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<table>
<tr><th>trained on</th><th>images</th><th>{tag}, last epoch</th><th>best</th></tr>
<tr><td>the labels as given</td><td>{images}</td><td>{before}</td><td>{best_before}</td></tr>
<tr><td>{name} labels</td><td>{left}</td><td>{after}</td><td>{best_after}</td></tr>
</table>
<p>{done}.{caution}</p>
<p><a href="{decide}">Look at the suspects, and decide</a>: keep, relabel or drop; save labels.csv, train on that with
<code>--labels labels.csv</code>.</p>
<p><img src="data:image/png;base64,{picture}" alt="The most suspect labels, given and proposed"></p>
<h2>The steps</h2>
<pre>{commands}</pre>
</body>
</html>
"""
UNVERIFIED = " The accuracies are of labels held out as they were given, some of which are wrong as well."


@dataclass(frozen=True)
class Trained:
    """The test accuracy of a classifier in percent, after its last and its best epoch."""

    last: float
    best: float


@dataclass(frozen=True)
class Outcome:
    """The content of the page.

    title: name of the folder.  tag: the metric, such as test/top1.  name: name of the labels of the last training.
    images: number of images under given labels.  left: number of images in the last training.  done: what became of
    the labels.  commands: the commands of the steps, a line each.
    """

    title: str
    tag: str
    name: str
    before: Trained
    after: Trained
    images: int
    left: int
    done: str
    commands: Sequence[str]


def outcome(content: Outcome, picture: bytes, decide: str) -> str:
    """The page as HTML without scripts.  picture: a PNG of suspects.  decide: address of the page to decide on."""
    numbers = {
        "before": content.before.last, "best_before": content.before.best,
        "after": content.after.last, "best_after": content.after.best,
    }  # fmt: skip
    return PAGE.format(
        style=STYLE,
        title=html.escape(visible(content.title)),
        tag=html.escape(content.tag),
        name=html.escape(content.name),
        images=f"{content.images:,}",
        left=f"{content.left:,}",
        done=html.escape(content.done),
        caution=UNVERIFIED if content.tag.endswith("_unverified") else "",
        decide=html.escape(decide),
        picture=base64.b64encode(picture).decode(),
        commands=html.escape("\n".join(visible(command) for command in content.commands)),
        **{name: f"{value:.2f}" for name, value in numbers.items()},
    )
