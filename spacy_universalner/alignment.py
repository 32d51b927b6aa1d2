"""Strings to character offsets, offsets to spans, overlapping spans to entities.

A language model answers with strings; where they stand in the text is found out here. All offsets
are characters of the original text: folding for comparison never shifts them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from spacy.attrs import ENT_IOB, ENT_TYPE
from spacy.tokens import Doc, Span

from spacy_universalner.scores import get_score, set_score
from spacy_universalner.ty import Extraction, Mention, Reject

Occurrences = Literal["all", "first"]
AlignmentMode = Literal["strict", "contract", "expand"]
Conflict = Literal["longest", "score", "label_order"]

NOT_IN_TEXT = "not in text"
INSIDE_WORD = "only inside a word"
OFF_TOKENS = "not on token boundaries"

# Thai, Lao, Myanmar, Khmer, kana and Han are written without spaces: words may meet anywhere.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
# Models straighten typographic quotes and dashes, and leave out accents.
_STRAIGHT = {
    **dict.fromkeys(range(0x2018, 0x201C), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
    **dict.fromkeys((*range(0x2010, 0x2016), 0x2212), "-"),
}
_ACCENT = re.compile("[\u0300-\u036f]")


def find_occurrences(
    text: str,
    string: str,
    *,
    occurrences: Occurrences = "all",
    tolerant: bool = False,
    word_boundary: bool = True,
) -> list[tuple[int, int]]:
    """Find where a string stands in a text.

    text (str): The text.
    string (str): What to look for; white space around it is ignored.
    occurrences (str): "all" places, from left to right and without overlap, or only the "first".
    tolerant (bool): Whether the string is also found with other white space, and one that does
        not stand there so, with other case, accents, typographic quotes and dashes, or Unicode
        composition.
    word_boundary (bool): Whether a place must not start or end inside a word.
    RETURNS (list[tuple[int, int]]): Character offsets in `text`, end exclusive.
    """
    string = string.strip()
    if not string:
        return []
    places = _exact(text, string)
    if word_boundary:
        places = (place for place in places if _is_whole(text, *place))
    found = list(places)
    squeezed = string.split()
    if tolerant and (not found or len(squeezed) > 1):
        variants = list(_folded(text, string))
        if word_boundary:
            variants = [place for place in variants if _is_whole(text, *place)]
        found += [place for place in variants if text[slice(*place)].split() == squeezed]
        found = found or variants
    found = list(_disjoint(sorted(found)))
    return found[:1] if occurrences == "first" else found


def locate(text: str, extractions: Iterable[Extraction]) -> tuple[list[Mention], list[Reject]]:
    """Find extracted strings by exact match at word boundaries, all occurrences (NuNER 3.1).

    text (str): The text that was annotated.
    extractions (Iterable[Extraction]): What the language model extracted from it.
    RETURNS (tuple[list[Mention], list[Reject]]): The mentions, sorted and each once, and the
        strings that do not stand in the text.
    """
    mentions: set[Mention] = set()
    rejects = []
    for extraction in extractions:
        places = find_occurrences(text, extraction.text)
        if not places:
            rejects.append(Reject(extraction.text, why_not_found(text, extraction.text)))
        mentions.update(Mention(start, end, extraction.label) for start, end in places)
    return sorted(mentions), rejects


def why_not_found(text: str, string: str) -> str:
    """The reason why `find_occurrences` has found nothing.

    text (str): The text.
    string (str): What was looked for.
    RETURNS (str): `NOT_IN_TEXT` or `INSIDE_WORD`.
    """
    return INSIDE_WORD if string.strip() and string.strip() in text else NOT_IN_TEXT


def to_spans(
    doc: Doc, mentions: Iterable[Mention], alignment_mode: AlignmentMode = "expand"
) -> tuple[list[Span], list[Reject]]:
    """Put mentions onto a document's tokens.

    doc (Doc): The document.
    mentions (Iterable[Mention]): In any order; they may overlap. A score becomes `Span._.score`;
        where several end up on the same tokens with the same label, the highest does.
    alignment_mode (str): What to do with a mention that does not start and end with a token, as
        in `Doc.char_span`: "strict" rejects it, "contract" keeps the tokens inside of it,
        "expand" takes every token that it touches.
    RETURNS (tuple[list[Span], list[Reject]]): The spans, sorted by offsets and label and each
        once, and the mentions that do not align.
    """
    scores: dict[tuple[int, int, str], float | None] = {}
    rejects = []
    text = doc.text  # spaCy joins it anew at each access
    for mention in mentions:
        span = doc.char_span(mention.start, mention.end, alignment_mode=alignment_mode)
        if span is None:
            rejects.append(Reject(text[mention.start : mention.end], OFF_TOKENS))
            continue
        key = (span.start, span.end, mention.label)
        known = scores.get(key)
        scores[key] = mention.score if known is None else max(known, mention.score or 0.0)
    spans = []
    for (start, end, label), score in sorted(scores.items(), key=lambda item: item[0]):
        span = Span(doc, start, end, label=label)
        set_score(span, score)
        spans.append(span)
    return spans, rejects


def resolve(
    spans: Iterable[Span],
    conflict: Conflict = "longest",
    labels: Sequence[str] = (),
    taken: Iterable[Span] = (),
) -> list[Span]:
    """Choose spans that do not overlap, best first.

    spans (Iterable[Span]): In any order. The result does not depend on it.
    conflict (str): What makes a span better: "longest", the higher "score", or the earlier place
        of its label in `labels` ("label_order"). The other two break ties, then the alphabet of
        labels and the earlier place in the text.
    labels (Sequence[str]): The labels in order of preference, for "label_order".
    taken (Iterable[Span]): Spans whose tokens are not to be had.
    RETURNS (list[Span]): In order of the text.
    """
    rank = {label: i for i, label in enumerate(labels)} if conflict == "label_order" else {}

    def key(span: Span) -> tuple[float | int | str, ...]:
        length, score = span.start - span.end, -(get_score(span) or 0.0)
        order = rank.get(span.label_, len(rank))
        first = {"longest": length, "score": score, "label_order": order}[conflict]
        return (first, length, score, span.label_, span.start)

    occupied = {i for span in taken for i in range(span.start, span.end)}
    chosen = []
    for span in sorted(spans, key=key):
        if occupied.isdisjoint(range(span.start, span.end)):
            occupied.update(range(span.start, span.end))
            chosen.append(span)
    return sorted(chosen, key=lambda span: span.start)


def blocked_tokens(doc: Doc) -> list[Span]:
    """Find the tokens that `Doc.set_ents` was told to keep free of entities.

    doc (Doc): The document.
    RETURNS (list[Span]): Each of them as a span.
    """
    tags = doc.to_array([ENT_IOB, ENT_TYPE])
    return [
        doc[i : i + 1] for i, (iob, type_) in enumerate(tags.tolist()) if iob == 3 and not type_
    ]


def _exact(text: str, string: str) -> Iterator[tuple[int, int]]:
    start = text.find(string)
    while start != -1:
        yield start, start + len(string)
        start = text.find(string, start + 1)


def _folded(text: str, string: str) -> Iterator[tuple[int, int]]:
    """Places in the original text whose folded form is that of the string."""
    folded, starts, ends = _fold(text)
    wanted = _fold(string)[0].strip()
    if not wanted:
        return
    for first, after in _exact(folded, wanted):
        # Neither edge may fall inside of what one original character has become.
        if (first and starts[first] == starts[first - 1]) or (
            after < len(folded) and starts[after] == starts[after - 1]
        ):
            continue
        yield starts[first], ends[after - 1]


@lru_cache(maxsize=4)
def _fold(text: str) -> tuple[str, list[int], list[int]]:
    """Fold for comparison: case, accents, quotes, dashes; runs of white space become a space.

    RETURNS (tuple[str, list[int], list[int]]): The folded text and, for each of its characters,
        the offsets of the original's start and end.
    """
    folded: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for i, character in enumerate(text):
        blank = character.isspace()
        if folded and (_ACCENT.match(character) or (blank and folded[-1] == " ")):
            ends[-1] = i + 1
            continue
        if blank:
            characters = " "
        elif unicodedata.category(character) == "Cf":  # soft hyphens, zero-width characters
            continue
        else:
            plain = unicodedata.normalize("NFKD", character.translate(_STRAIGHT))
            if plain.startswith(" "):  # an accent that stands alone
                plain = character
            characters = _ACCENT.sub("", plain).casefold()
        folded.extend(characters)
        starts.extend(i for _ in characters)
        ends.extend(i + 1 for _ in characters)
    return "".join(folded), starts, ends


def _disjoint(places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    after = 0
    for start, end in places:
        if start >= after:
            yield start, end
            after = end


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether a place starts and ends at word boundaries."""
    return is_word_boundary(text, start) and is_word_boundary(text, end)


def is_word_boundary(text: str, offset: int) -> bool:
    """Whether a place may start or end at an offset: never inside a word or a character.

    text (str): The text.
    offset (int): Between 0 and its length.
    RETURNS (bool): True also between any two characters of scripts written without spaces.
    """
    if offset in (0, len(text)):
        return True
    before, after = text[offset - 1], text[offset]
    if unicodedata.category(after).startswith("M"):  # a mark belongs to the letter before it
        return False
    if _UNSPACED.match(before) or _UNSPACED.match(after):
        return True
    return not (_is_word(before) and _is_word(after))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"
