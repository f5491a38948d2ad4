"""replicate.md: what was measured, for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from tools.bench_parts.tables import Table, markdown
from tools.replicate_parts.goals import against

Tree = Mapping[str, Any]

SMALL = (
    "On a CPU, small networks are trained for minutes: that shows that everything works together, and is no evidence "
    "for or against what the papers claim of networks that were trained for hours."
)


def page(tree: Tree) -> str:
    """The content of replicate.json as Markdown."""
    calls, steps = tree["calls"], tree["steps"]
    spent = sum(call["seconds"] for call in calls) / 60
    parts = [
        f"# tools/replicate, {spent:.0f} minutes on {tree['machine'] or tree['device']}",
        "\n".join(f"    {call['command']}    # {call['began']}" for call in calls),
        f"Images: {tree['images']}. {' | '.join(dict.fromkeys(call['versions'] for call in calls))}. In commands, "
        "DATA is the folder of the images, OUT this one, WORK that of large files. What was cut short or skipped had "
        "no time left: a later call goes on with it.",
    ]
    if tree["device"] == "cpu":
        parts.append(SMALL)
    parts.append(_listed([["step", "outcome", "s", "figure"], *map(_overview, steps)]))
    if goals := against(tree["device"], steps):
        parts += ["## Goals for one H100", goals]
    for step in steps:
        if step["began"]:
            parts += _section(step)
    return "\n\n".join(parts) + "\n"


def _overview(step: Tree) -> list[str]:
    outcome = step["status"] + (f": {step['why']}" if step["why"] else "")
    return [step["title"], outcome, f"{step['seconds']:.0f}" if step["began"] else "", step["figure"]]


def _listed(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts."""
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---" * len(lines[0]) + "|", *rest])


def _section(step: Tree) -> list[str]:
    parts = [f"## {step['title']}", "\n".join(f"    {command}" for command in step["commands"])]
    load = f", load average {step['load']} at the end" if step["load"] else ""
    parts.append(f"{step['began']}, commit {step['commit']}, {step['machine']}, {step['seconds']:.0f} s{load}.")
    if step["status"] != "done":
        parts.append(f"**{step['status']}**: {step['why']}" if step["why"] else f"**{step['status']}**")
    parts += [f"- {note}" for note in step["notes"]]
    parts += [markdown(Table.load(table)) for table in step["tables"]]
    if step["error"]:
        parts.append("```\n" + step["error"].strip() + "\n```")
    return [part for part in parts if part]
