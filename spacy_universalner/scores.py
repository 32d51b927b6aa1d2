"""`Span._.score`: how sure a component is of a span, kept by offsets and label.

spaCy stores an extension's value by offsets alone, so two labels on the same words would share
one score; here each has its own.
"""

from __future__ import annotations

from typing import Any

from spacy.tokens import Span


def register() -> None:
    """Make `Span._.score` available, unless another package already has one."""
    if not Span.has_extension("score"):
        Span.set_extension("score", getter=get_score)


def get_score(span: Span) -> float | None:
    """The score of a span.

    span (Span): A span with its label.
    RETURNS (float | None): In (0, 1]; None if it was never scored.
    """
    user_data: dict[Any, Any] = span.doc.user_data
    score: float | None = user_data.get(_key(span))
    return score


def set_score(span: Span, score: float | None) -> None:
    """Store the score of a span on its document, in place of one from another component.

    span (Span): A span with its label.
    score (float | None): In (0, 1]; None for none.
    """
    user_data: dict[Any, Any] = span.doc.user_data
    user_data.pop(_key(span), None)
    if score is not None:
        user_data[_key(span)] = score


def _key(span: Span) -> tuple[str, str, int, int]:
    # The form of spaCy's own extension values, so that `Span.as_doc`, `Doc.from_docs` and
    # `Doc.to_bytes` carry it along.
    return ("._.", f"score {span.label_}", span.start_char, span.end_char)
