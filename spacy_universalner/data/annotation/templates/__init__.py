"""The annotation prompts of the two papers, as Jinja files with one variable, `text`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

_FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.jinja")))


def render_prompt(template: str, text: str) -> str:
    """Fill an annotation prompt.

    template (str): Name of a template of this folder, "nuner" (NuNER Figure 2), "uniner" or
        "uniner_definition" (UniversalNER 3.1); or the path of a Jinja file of one's own.
    text (str): The sentence or passage.
    RETURNS (str): The prompt.
    RAISES (ValueError): There is no such template.
    """
    return _load(template).render(text=text)


@cache
def _load(template: str) -> Template:
    path = _FOLDER / f"{template}.jinja" if template in NAMES else Path(template)
    if not path.is_file():
        raise ValueError(
            f"There is no annotation template '{template}'. Use one of {', '.join(NAMES)}, or the "
            "path of a Jinja file with the variable `text`."
        )
    environment = Environment(undefined=StrictUndefined)  # plain text: nothing to escape
    return environment.from_string(path.read_text(encoding="utf8"))
