"""The map of concepts (NuNER Figure 6): alike concepts lie together and have alike colours."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 60
LETTER, LINE = 0.007, 0.012  # of a name in the picture, as shares of its width and height


@dataclass(frozen=True)
class ConceptMap:
    """Where each concept lies, the commonest first.

    names (list[str]): The concepts.
    counts (list[int]): How often each one was annotated.
    positions (np.ndarray): In two dimensions (concepts x 2), each from 0 to 1.
    colours (np.ndarray): Red, green and blue (concepts x 3), each from 0 to 1.
    """

    names: list[str]
    counts: list[int]
    positions: np.ndarray[Any, Any]
    colours: np.ndarray[Any, Any]

    @property
    def radii(self) -> list[float]:
        """The disks' sizes, in proportion to the logarithm of the frequency; 1 for the largest."""
        sizes = [math.log1p(count) for count in self.counts]
        return [math.sqrt(size / max(sizes)) for size in sizes]


def make_concept_map(
    counts: Mapping[str, int], vectors: np.ndarray[Any, Any], *, seed: int = 0
) -> ConceptMap:
    """Project concepts' vectors with UMAP: to two dimensions for places, to three for colours.

    counts (Mapping[str, int]): Frequency of each concept.
    vectors (np.ndarray): Their vectors, in the same order (concepts x width).
    seed (int): The same seed draws the same map.
    RETURNS (ConceptMap): The map.
    RAISES (ImportError): UMAP is not installed.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(
            "The map of concepts needs UMAP. Install it with "
            "`pip install 'spacy-universalner[map]'`."
        ) from error
    settings = {"metric": "cosine", "random_state": seed, "n_jobs": 1}
    projected = [
        _to_unit(UMAP(n_components=number, **settings).fit_transform(vectors)) for number in (2, 3)
    ]
    names = list(counts)
    order = sorted(range(len(names)), key=lambda index: (-counts[names[index]], names[index]))
    return ConceptMap(
        names=[names[index] for index in order],
        counts=[counts[names[index]] for index in order],
        positions=projected[0][order],
        colours=projected[1][order],
    )


def _to_unit(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    low, high = values.min(0), values.max(0)
    return (values - low) / np.maximum(high - low, 1e-9)


def draw_page(concept_map: ConceptMap, title: str) -> str:
    """An HTML page with search, zoom and names on hovering; it needs no network.

    concept_map (ConceptMap): What to draw.
    title (str): Heading of the page.
    RETURNS (str): HTML.
    """
    environment = Environment(
        loader=PackageLoader("spacy_universalner.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    rows = [
        [name, count, round(x, 4), round(y, 4), round(radius, 3), *(round(255 * c) for c in colour)]
        for name, count, (x, y), radius, colour in zip(
            concept_map.names,
            concept_map.counts,
            concept_map.positions.tolist(),
            concept_map.radii,
            concept_map.colours.tolist(),
            strict=True,
        )
    ]
    # A concept's name may hold anything, "</script>" too.
    data = json.dumps(rows, ensure_ascii=True).replace("<", "\\u003c")
    return environment.get_template("concept_map.html.jinja").render(title=title, data=data)


def draw_image(concept_map: ConceptMap, title: str) -> Figure:
    """A picture of the map, with the names of the commonest concepts that do not overlap.

    concept_map (ConceptMap): What to draw.
    title (str): Heading of the picture.
    RETURNS (Figure): To be saved.
    RAISES (ImportError): Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The picture needs matplotlib. Install it with "
            "`pip install 'spacy-universalner[report]'`."
        ) from error
    figure = Figure(figsize=(12, 12), layout="constrained")
    axes = figure.add_subplot()
    x, y = concept_map.positions.T
    areas = [120 * radius**2 for radius in concept_map.radii]
    axes.scatter(x, y, s=areas, c=0.85 * concept_map.colours, alpha=0.6, linewidths=0)
    written: list[tuple[float, float, float]] = []
    for name, (across, up) in zip(concept_map.names, concept_map.positions, strict=True):
        half = 0.5 * LETTER * len(name)
        if all(abs(across - a) > half + h or abs(up - u) > LINE for a, u, h in written):
            axes.annotate(name, (across, up), fontsize=8, ha="center", va="center")
            written.append((across, up, half))
        if len(written) == LABELLED:
            break
    axes.set_title(title)
    axes.set_axis_off()
    return figure
