"""The plots of a report: validation, losses, what the reward is made of, and what the monitors watch. matplotlib."""

# pyright: reportUnknownMemberType=false
# matplotlib's own types leave some keywords open.

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbdistill.levels import Level, Monitor
from bbdistill.monitors import Memory
from bbdistill.watched import MONITORS

Rows = Sequence[Mapping[str, Any]]
WIDE, HIGH, COLUMNS = 4.0, 2.2, 3
"""Inches of a plot, and how many stand side by side."""
COLOURS: Mapping[Literal["warn", "stop"], str] = {"warn": "tab:orange", "stop": "tab:red"}
LOSSES = ("sft/loss", "distill/loss", "dpo/loss", "discriminator/loss")
SHARES = "reward/share_"


def plots(rows: Rows, validations: Sequence[tuple[int, float]], memory: Mapping[str, Memory], alarms: Rows) -> str:
    """One SVG, the same for the same run. `rows` are those of metrics.jsonl, `memory` is the monitors', by name.

    A dashed line is a level of a monitor, where it is near what was measured; a dot is what it told. Empty where no
    metric was ever anything but 0.
    """
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user has set for their own plots
        mpl.rcParams["svg.fonttype"], mpl.rcParams["svg.hashsalt"] = "none", "bbdistill"
        figure = _figure(rows, validations, memory, alarms)
        return _svg(figure) if figure else ""


def _figure(
    rows: Rows, validations: Sequence[tuple[int, float]], memory: Mapping[str, Memory], alarms: Rows
) -> Figure | None:
    known = {key for row in rows for key, value in row.items() if value}
    shares = sorted(key for key in known if key.startswith(SHARES))
    watched = [key for key in dict.fromkeys(monitor.key for monitor in MONITORS) if key in known]
    losses = [key for key in LOSSES if key in known]
    count = bool(validations) + len(losses) + (len(shares) > 1) + len(watched)
    if not count:
        return None
    across = -(-count // COLUMNS)
    figure = Figure(figsize=(WIDE * COLUMNS, HIGH * across), layout="constrained")
    axes = iter(figure.subplots(across, COLUMNS, squeeze=False).flat)
    if validations:
        _line(next(axes), "validation score", validations, marker="o")
    for key in losses:
        _line(next(axes), key, _points(rows, key))
    if len(shares) > 1:
        _shares(next(axes), rows, shares)
    for key in watched:
        _watched(next(axes), key, _points(rows, key), memory, alarms)
    for rest in axes:
        rest.remove()
    return figure


def _line(axes: Axes, title: str, points: Sequence[tuple[int, float]], *, marker: str = "") -> None:
    axes.plot(*zip(*points, strict=True), linewidth=1, marker=marker, markersize=3)
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=7)


def _shares(axes: Axes, rows: Rows, keys: Sequence[str]) -> None:
    for key in keys:
        axes.plot(*zip(*_points(rows, key), strict=True), linewidth=1, label=key.removeprefix(SHARES))
    axes.set_title("share of the reward", fontsize=9, loc="left")
    axes.set_ylim(0, 1)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)


def _watched(
    axes: Axes, key: str, points: Sequence[tuple[int, float]], memory: Mapping[str, Memory], alarms: Rows
) -> None:
    _line(axes, key, points)
    low, high = axes.get_ylim()
    monitors = {monitor.name: monitor for monitor in MONITORS if monitor.key == key}
    for name, monitor in monitors.items():
        for level, colour in ((monitor.warn, COLOURS["warn"]), (monitor.stop, COLOURS["stop"])):
            limit = level and _limit(monitor, level, memory.get(name))
            # A level that is far away would press the line flat.
            if limit is not None and low - (high - low) <= limit <= high + (high - low):
                axes.axhline(limit, color=colour, linestyle="--", linewidth=0.8)
    values = dict(points)
    for row in alarms:
        if row["monitor"] in monitors and row["step"] in values:
            axes.plot(row["step"], values[row["step"]], "o", color=COLOURS[row["level"]], markersize=4)


def _limit(monitor: Monitor, level: Level, memory: Memory | None) -> float | None:
    """None where it depends on a start that there has not been."""
    if monitor.of == "value":
        return level.at
    return monitor.limit(level, memory.start) if memory else None


def _points(rows: Rows, key: str) -> list[tuple[int, float]]:
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    return text[text.index("<svg") :]
