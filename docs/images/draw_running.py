"""Draw the pictures of the pages about running, and about coming from other programs."""

from __future__ import annotations

import re
from pathlib import Path

from drawing import BLUE, RED, Names, around, detected, of, panels
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import geotile

_DOCS = Path(__file__).parents[1]


@of("command-line")
def command_line(names: Names) -> Figure:
    text = (_DOCS / "command-line.md").read_text(encoding="utf-8")
    commands, output = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)[0] for kind in ("bash", "text"))
    plan, check = (f"$ {line}" for line in commands.splitlines()[:2])
    lines = output.splitlines()
    k = next(k for k, line in enumerate(lines) if line.startswith("http"))
    shown = [plan, *lines[:k], "", check, lines[k]]
    figure = Figure(figsize=(8.4, 0.2 + 0.2 * len(shown)), facecolor="#1e1e1e")
    figure.text(
        0.02, 0.5, "\n".join(shown), color="#e0e0e0", family="monospace", fontsize=8.5, va="center", linespacing=1.5
    )
    return figure


@of("speed")
def speed(names: Names) -> Figure:
    stages = ("decode", "cut", "encode", "send", "parse", "merge")
    figure = Figure(figsize=(7.6, 2.6))
    ax = figure.subplots()
    for y, report in enumerate(names["reports"].values()):
        ax.barh(y, report.seconds, color="#dddddd", label="the run" if y == 0 else None)
        left = 0.0
        for number, stage in enumerate(stages):
            seconds = report.timing[stage]
            ax.barh(y, seconds, 0.45, left, color=f"C{number}", label=stage if y == 0 else None)
            left += seconds
        ax.text(report.seconds, y, f" {report.seconds:.1f} s", va="center", fontsize=9)
    ax.set_yticks(range(len(names["reports"])), [f"concurrency={each!r}" for each in names["reports"]])
    ax.set(xlabel="seconds", xlim=(0, 1.12 * max(each.seconds for each in names["reports"].values())))
    ax.invert_yaxis()
    ax.legend(loc="lower right", ncols=4, fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


@of("clusters")
def clusters(names: Names) -> Figure:
    report, workers = names["report"], names["workers"]
    figure = Figure(figsize=(8.6, 3.6))
    ax = figure.subplots()
    _box(ax, 0, 1.5, "client\nplan of the image:\n" + f"{report.tiles} tiles in {report.regions} regions")
    _box(ax, 3.2, 1.5, "scheduler\na task per region")
    for k in range(workers):
        y = 3 * (workers - 1 - k)
        _box(ax, 6.4, y, f"worker {k + 1}\nreads, asks, merges")
        _arrow(ax, (4.2, 1.5), (5.3, y))
        _arrow(ax, (7.5, y), (8.9, 2.5), "tiles" if k == 0 else "")
        _arrow(ax, (7.5, y), (8.9, 0.5), "" if k == 0 else "parts")
    _box(ax, 9.6, 2.5, f"model\n{report.requests} requests")
    _box(ax, 9.6, 0.5, f"found/\n{report.detections_after} detections")
    _arrow(ax, (0.95, 1.5), (2.4, 1.5))
    ax.set(xlim=(-1.1, 10.6), ylim=(-0.8, 3.8))
    ax.axis("off")
    return figure


def _box(ax: Axes, x: float, y: float, text: str) -> None:
    style = {"boxstyle": "round,pad=0.5", "facecolor": "#eaf0f8", "edgecolor": BLUE}
    ax.text(x, y, text, ha="center", va="center", bbox=style, fontsize=8.5)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#666666"})
    ax.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.1, text, ha="center", fontsize=8, color="#666666")


@of("resuming")
def resuming(names: Names) -> Figure:
    report = names["report"]
    figure = Figure(figsize=(7.6, 1.9))
    ax = figure.subplots()
    kept, asked = report.tiles_resumed, report.requests
    ax.barh(1, kept, color=BLUE, label="finished regions, kept in the checkpoint")
    ax.barh(1, names["TILES_LEFT"] - kept, left=kept, color=RED, label="lost with the regions in progress")
    ax.barh(0, kept, color=BLUE, alpha=0.35, label="resumed: not asked again")
    ax.barh(0, asked, left=kept, color="#4caf50", label="asked by the second call")
    ax.set(yticks=[1, 0], yticklabels=["first call", "second call"], xlabel="tiles", xlim=(0, report.tiles))
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


@of("failures")
def failures(names: Names) -> Figure:
    figure, (left, right) = panels(2)
    detected(left, names["image"], names["first"], "first call: PARTIAL")
    for failure in geotile.report(names["first"]).failures:
        y0, y1, x0, x1 = failure.window
        left.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=RED, alpha=0.15, edgecolor=RED, linewidth=0.8))
    detected(right, names["image"], names["second"], "second call: SUCCESS")
    return figure


@of("coming-from-oversightml")
def from_oversightml(names: Names) -> Figure:
    figure, (left, right) = panels(2, 9.6, 4.6)
    for ax, found, title in (
        (left, names["detections"], "NMS of 0.75, as in the request"),
        (right, names["joined"], '"geotile": {"merge": "seam"}'),
    ):
        detected(ax, "scene.tif", found, title, window=geotile.Window(380, 900, 380, 900))
    return figure


@of("from-sahi")
def from_sahi(names: Names) -> Figure:
    figure, (left, right) = panels(2, 9.6, 4.6)
    large = names["as_geotile"].query("label == 'building'")
    view = around(large.loc[(large.xmax - large.xmin).idxmax()], (1536, 1536), 60)
    for ax, found, title in (
        (left, names["as_sahi"], 'merge="greedy-nmm"'),
        (right, names["as_geotile"], 'merge="seam"'),
    ):
        detected(ax, names["scene"].path, found, title, window=view)
    return figure
