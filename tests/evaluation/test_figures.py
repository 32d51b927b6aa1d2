"""What the figures show."""

from __future__ import annotations

from spacy_universalner.evaluation import figures
from spacy_universalner.evaluation.figures import Point, draw_learning_curves


def test_all_panels_show_their_highest_point(monkeypatch):
    """The panels share one scale, whichever of them has the highest scores."""
    drawn = []
    monkeypatch.setattr(figures, "_svg", drawn.append)
    panels = {
        "low": {"nuner": [Point(8, "8", (0.2, 0.3))]},
        "high": {"nuner": [Point(8, "8", (0.8,)), Point(64, "64", (0.9,))]},
        "middle": {"nuner": [Point(8, "8", (0.5,))]},
    }
    draw_learning_curves(panels, {"nuner": "NuNER"}, size_unit="examples")
    (figure,) = drawn
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        assert bottom == 0 and top > 90
        assert axes.get_xlabel() == "examples"
    left, right = figure.axes[1].get_xlim()
    assert left < 8 and right > 64
