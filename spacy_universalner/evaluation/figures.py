"""The report's figures, as SVG that takes its colours and its type from the page around it."""

from __future__ import annotations

import io
import re
import statistics
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The page's colours by name, as (light, dark). A system has the same one in all figures and tables.
COLOURS = {
    "ink": ("#1c2530", "#e6eaf0"),
    "muted": ("#5c6878", "#98a4b5"),
    "line": ("#dde3ea", "#2d3643"),
    "paper": ("#ffffff", "#12171e"),
    "wash": ("#f5f7fa", "#1a212b"),
    "nuner": ("#0d7a72", "#3ecfc2"),
    "base": ("#8996a6", "#77869a"),
    "closed": ("#5b6fb5", "#93a6ee"),
    "tuned": ("#b3541e", "#f0a35e"),
    "untuned": ("#c3aa94", "#7d6a59"),
    "bad": ("#b4233c", "#ff8095"),
}


def colour_of(system: str) -> str:
    """A system's colour on paper; one without a colour of its own is muted."""
    return COLOURS.get(system, COLOURS["muted"])[0]


@dataclass(frozen=True)
class Point:
    """The scores at a training size.

    size (float): Training sentences.
    name (str): How the size is called.
    scores (Sequence[float]): F1 in [0, 1] of each run.
    """

    size: float
    name: str
    scores: Sequence[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores)

    @property
    def sd(self) -> float:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def draw_learning_curve(
    curves: Mapping[str, Sequence[Point]], names: Mapping[str, str], size_unit: str = ""
) -> str:
    """F1 over training size, one curve for each system (NuNER Figure 7's layout).

    curves (Mapping[str, Sequence[Point]]): For each system, named as in `COLOURS`, its points; the
        line joins the means, the bars are standard deviations, the dots single runs.
    names (Mapping[str, str]): How the systems are called.
    size_unit (str): What training sizes are counted in.
    RETURNS (str): SVG.
    """
    figure, axes = _canvas(9.4, 3.8)
    ends = []
    for system, points in curves.items():
        colour = colour_of(system)
        points = sorted(points, key=lambda point: point.size)
        sizes, means = [p.size for p in points], [100 * p.mean for p in points]
        bars = [100 * p.sd for p in points]
        style: dict[str, Any] = {"marker": "o", "markersize": 6, "linewidth": 2.2}
        style |= {"elinewidth": 1.4, "capsize": 4}
        axes.errorbar(sizes, means, yerr=bars, color=colour, zorder=3, **style)
        for point in points:
            scores = [100 * score for score in point.scores]
            axes.plot(
                [point.size] * len(scores), scores, "o", color=colour, alpha=0.35, markersize=4
            )
        ends.append((means[-1], sizes[-1], names.get(system, system), colour))
        for size, mean, bar in zip(sizes, means, bars, strict=True):
            at_size = [p.mean for other in curves.values() for p in other if p.size == size]
            above = mean >= 100 * max(at_size)
            if not above and mean > 100 * min(at_size):
                continue  # a figure between two curves would stand on one of them
            place = mean + bar if above else mean - bar
            style = {"xytext": (0, 8 if above else -8), "textcoords": "offset points"}
            style |= {"ha": "center", "va": "bottom" if above else "top"}
            axes.annotate(f"{mean:.1f}", (size, place), color=colour, fontsize=10, **style)
    ticks = {point.size: point.name for points in curves.values() for point in points}
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xmargin(0.12)
    axes.set_ylim(0, 1.15 * max([1.0, *(mean for mean, *_ in ends)]))
    axes.set_xlabel(size_unit)
    axes.set_ylabel("F1, %")
    lowest = float("-inf")
    for mean, size, name, colour in sorted(ends):  # names of close curves are moved apart
        lowest = max(mean, lowest + 0.07 * axes.get_ylim()[1])
        style = {"xytext": (14, 0), "textcoords": "offset points", "va": "center"}
        style["annotation_clip"] = False
        axes.annotate(name, (size, lowest), color=colour, weight="bold", fontsize=11, **style)
    return _svg(figure)


def draw_learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    names: Mapping[str, str],
    unit: str = "F1, %",
    size_unit: str = "",
) -> str:
    """Learning curves of several data sets side by side (NuNER Figure 13's layout).

    panels (Mapping[str, Mapping[str, Sequence[Point]]]): For each data set its curves, as in
        `draw_learning_curve`.
    names (Mapping[str, str]): How the systems are called.
    unit (str): What is drawn.
    size_unit (str): What training sizes are counted in.
    RETURNS (str): SVG.
    """
    figure, first = _canvas(3.2 * len(panels), 3.4)
    first.remove()
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        _style(axes)
        axes.set_title(title, color=COLOURS["ink"][0], fontsize=11)
        for system, points in curves.items():
            points = sorted(points, key=lambda point: point.size)
            means, bars = [100 * p.mean for p in points], [100 * p.sd for p in points]
            style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.8}
            style |= {"elinewidth": 1.0, "capsize": 2, "color": colour_of(system)}
            sizes = [point.size for point in points]
            axes.errorbar(sizes, means, yerr=bars, label=names.get(system, system), **style)
        ticks = {point.size: point.name for points in curves.values() for point in points}
        axes.set_xscale("log")
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(min(ticks) / 1.3, max(ticks) * 1.3)
        axes.minorticks_off()
        axes.set_xlabel(size_unit)
    grid[0].set_ylim(bottom=0)  # shared: earlier, it would end the scale at the panels so far
    grid[0].set_ylabel(unit)
    handles, labels = grid[0].get_legend_handles_labels()
    style = {"ncols": len(labels), "frameon": False, "labelcolor": COLOURS["muted"][0]}
    figure.legend(handles, labels, loc="outside lower center", **style)
    return _svg(figure)


def draw_losses(curves: Mapping[str, Sequence[tuple[float, float]]], system: str, unit: str) -> str:
    """A training's loss over time.

    curves (Mapping[str, Sequence[tuple[float, float]]]): Times and losses of each curve; the first
        is drawn as a line, the others as lines with dots.
    system (str): What was trained, named as in `COLOURS`.
    unit (str): What time is counted in, such as "step".
    RETURNS (str): SVG.
    """
    figure, axes = _canvas(4.6, 2.9)
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS["ink" if number else system][0]
        style: dict[str, Any] = {"marker": "o", "markersize": 4} if number else {}
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, label=name, **style)
    if len(curves) > 1:
        axes.legend(frameon=False, labelcolor=COLOURS["muted"][0])
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(unit)
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    return _svg(figure)


def draw_frequencies(
    counts: Mapping[str, int], bands: Sequence[Mapping[str, Any]], system: str
) -> str:
    """How often types occur, by rank (NuNER Figure 4), with the bands of UniversalNER's Table 1.

    counts (Mapping[str, int]): Mentions of each type.
    bands (Sequence[Mapping[str, Any]]): `band`, `types`, `share` from the commonest types on.
    system (str): Whose types these are, named as in `COLOURS`.
    RETURNS (str): SVG.
    """
    figure, axes = _canvas(4.6, 3.2)
    ranked = sorted(counts.values(), reverse=True)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(range(1, len(ranked) + 1), ranked, color=COLOURS[system][0], linewidth=2.4, zorder=3)
    axes.set_xlim(0.9, max(len(ranked), 2) * 1.3)
    axes.set_ylim(0.8, max([*ranked, 2]) * 3)
    top = axes.get_ylim()[1]
    start = 0
    for band in bands:
        end = start + band["types"]
        if not band["types"]:
            continue
        if start:
            axes.axvline(
                start + 0.5, color=COLOURS["muted"][0], linewidth=0.9, linestyle=(0, (3, 3))
            )
        left, right = max(start + 0.5, axes.get_xlim()[0]), min(end + 0.5, axes.get_xlim()[1])
        style: dict[str, Any] = {
            "ha": "center",
            "va": "top",
            "color": COLOURS["muted"][0],
            "fontsize": 9.5,
        }
        axes.text((left * right) ** 0.5, top * 0.85, band["band"], **style)
        axes.text((left * right) ** 0.5, top * 0.5, f"{band['share']:.0%}", **style)
        start = end
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("rank of the type")
    axes.set_ylabel("mentions")
    return _svg(figure)


def standalone(svg: str) -> str:
    """Give an SVG of this module light colours of its own, for a file that no page surrounds.

    svg (str): With the page's colours by name.
    RETURNS (str): With values, on a white ground.
    """
    plain = re.sub(r"var\(--(\w+)\)", lambda match: COLOURS[match[1]][0], svg)
    return plain.replace("<svg ", '<svg font-family="sans-serif" style="background: #ffffff" ', 1)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The report's figures need matplotlib. Install it with "
            "`pip install 'spacy-universalner[report]'`."
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["line"][0])
    axes.grid(axis="y", color=COLOURS["line"][0], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelsize=10, labelcolor=COLOURS["muted"][0])
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=COLOURS["muted"][0], size=10)


def _svg(figure: Figure) -> str:
    import matplotlib

    # Text stays text, and nothing in the file depends on when or where it was drawn.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        file = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    # A page may hold several: those names that are referred to are the figure's own, the others go.
    own = f"{zlib.crc32(svg.encode()):x}"
    names = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{m[1]}-{own}"' if m[1] in names else "", svg)
    svg = re.sub(r'(url\(|href=")#([\w-]+)', rf"\1#\2-{own}", svg)
    # The size and the font are the page's.
    svg = re.sub(r'^<svg ([^>]*?)width="\S+" height="\S+" ', r"<svg \1", svg)
    return re.sub(r"font-family: [^;\"]*; ?", "", svg)
