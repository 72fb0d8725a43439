"""Draws curves over steps as inline SVG that follows the page's colours, dark or light.

Used by `report`. No display, no global state of pyplot, no fonts embedded: text stays text.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MAX_POINTS = 1000
"""Per curve; more are averaged in groups, which no screen could show apart."""
SMOOTH_FROM = 50
"""Points from which on a noisy curve gets a smoothed one over it."""
_INK = "#010203"  # replaced by the page's own text colour
_COLOURS = ("#2f80ed", "#eb7a34", "#1fa187", "#b455c8", "#d1495b", "#8d99ae")


@dataclass(frozen=True)
class Curve:
    """Points (step, value) and what they are."""

    name: str
    points: Sequence[tuple[float, float]]
    style: Literal["noisy", "exact", "marked", "bars"] = "noisy"
    """`noisy` curves get a smoothed one over them; `marked` ones show each point; `bars` begin at their x."""


@dataclass(frozen=True)
class Plot:
    """Curves on common axes."""

    title: str
    curves: Sequence[Curve]
    x: str = "step"
    """What the horizontal axis counts."""


def draw(plot: Plot) -> str:
    """Return a plot as an `<svg>` element; the same for the same data."""
    # Only rank 0 comes here, at the end: the others spare the memory and a second of their start.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings = {"svg.fonttype": "none", "svg.hashsalt": plot.title, "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for number, curve in enumerate(plot.curves):
            points = thin([p for p in curve.points if math.isfinite(p[1])])
            colour = _COLOURS[number % len(_COLOURS)]
            x, y = [p[0] for p in points], [p[1] for p in points]
            if curve.style == "bars":
                width = max((x[-1] - x[0]) / max(len(x) - 1, 1), 1)
                axes.bar(x, y, width=width, align="edge", color=colour, label=curve.name)
            elif curve.style != "noisy" or len(points) < SMOOTH_FROM:
                marker = "o" if curve.style == "marked" or len(points) == 1 else ""
                width = 1.4 if len(points) > 1 else 0  # in the legend, too
                axes.plot(x, y, color=colour, label=curve.name, linewidth=width, marker=marker, markersize=3.5)
            else:
                axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.35)
                axes.plot(x, smooth(y), color=colour, label=curve.name, linewidth=1.4)
        axes.set_xlabel(plot.x, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(colors=_INK)
        axes.grid(color=_INK, alpha=0.15, linewidth=0.6)
        for name, spine in axes.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(_INK)
        if len(plot.curves) > 1:
            axes.legend(frameon=False, labelcolor=_INK)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{plot.title}"', 1)


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `MAX_POINTS` points: means of neighbours."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(p[1] for p in group) / len(group)) for group in groups]


def smooth(values: Sequence[float]) -> list[float]:
    """Return an exponential moving average over about a fiftieth of the values, without the start's bias."""
    keep = 1 - 1 / max(2.0, len(values) / 50)
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed
