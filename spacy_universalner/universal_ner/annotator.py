"""From a model's answers to the entities of a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from itertools import compress
from typing import Any, Literal

from spacy.tokens import Doc, Span

from spacy_universalner.alignment import (
    AlignmentMode,
    Conflict,
    Occurrences,
    blocked_tokens,
    find_occurrences,
    resolve,
    to_spans,
    why_not_found,
)
from spacy_universalner.scores import get_score
from spacy_universalner.ty import Answer, Mention
from spacy_universalner.universal_ner.questions import Found, Questions, Refused
from spacy_universalner.universal_ner.windows import Window

BELOW_THRESHOLD = "below threshold"
AT_CUT = "at a window's edge, not found by its neighbour"


@dataclass
class Annotator:
    """Locates strings in a document and sets its spans and entities.

    spans_key (str): Key of `doc.spans` for every span, overlapping ones too; `attrs["scores"]` of
        the group holds their scores.
    annotate (str): "ents", "spans" or "both".
    conflict (str): How overlaps resolve into `doc.ents`: "longest", "score" or "label_order".
    overwrite_ents (bool): Whether an entity replaces those of earlier components that it overlaps.
    occurrences (str): "all" or "first": where a string that stands several times goes.
    alignment_mode (str): "strict", "contract" or "expand", as in `Doc.char_span`.
    threshold (float): Strings with a lower score are not used; those without a score are.
    label_thresholds (Mapping[str, float]): The same for single labels, in place of `threshold`.
    """

    spans_key: str = "universal_ner"
    annotate: Literal["ents", "spans", "both"] = "both"
    conflict: Conflict = "longest"
    overwrite_ents: bool = False
    occurrences: Occurrences = "all"
    alignment_mode: AlignmentMode = "expand"
    threshold: float = 0.0
    label_thresholds: Mapping[str, float] = field(default_factory=dict)

    def __call__(
        self,
        doc: Doc,
        windows: Sequence[Window],
        questions: Questions,
        answers: Sequence[Sequence[Answer]],
    ) -> dict[str, Any]:
        """Annotate a document.

        doc (Doc): The document.
        windows (Sequence[Window]): The windows that the model was asked about.
        questions (Questions): What it was asked.
        answers (Sequence[Sequence[Answer]]): Its answers about each window.
        RETURNS (dict[str, Any]): What is told in `doc.user_data`: "strings", for each label those
            that the model has answered with, wherever they stand; "rejects", with "label",
            "item" and "reason" of whatever was not used; "counts" of the reasons; and "errors",
            with "label" and "error" of each question that got no answer.
        """
        refused: list[Refused] = []
        located = []
        strings: dict[str, list[str]] = {}
        text = doc.text  # spaCy joins it anew at each access
        for window, group in zip(windows, answers, strict=True):
            read, rejects = questions.read(group)
            refused.extend(rejects)
            found = []
            for each in read:
                if self._is_sure(each):
                    found.append(each)
                    if each.text not in (known := strings.setdefault(each.label, [])):
                        known.append(each.text)
                else:
                    refused.append(Refused(each.label, each.text, BELOW_THRESHOLD))
            located.append(list(self._locate(doc, text, window, found, refused)))
        unheard = {
            (i, subject)
            for i, group in enumerate(answers)
            for subject, answer in zip(questions.subjects(), group, strict=True)
            if answer.error is not None
        }
        mentions = merge(windows, located, unheard, refused, text)
        if self.occurrences == "first":
            mentions = _first_of_each(mentions, text)
        spans, off_tokens = to_spans(doc, mentions, self.alignment_mode)
        refused.extend(Refused("", reject.item, reject.reason) for reject in off_tokens)
        if self.annotate in ("spans", "both"):
            doc.spans[self.spans_key] = spans
            doc.spans[self.spans_key].attrs["scores"] = [get_score(span) for span in spans]
        if self.annotate in ("ents", "both"):
            self._set_ents(doc, spans, questions.labels or ())
        return {
            "strings": strings,
            "rejects": [asdict(each) for each in refused],
            "counts": dict(Counter(each.reason for each in refused)),
            "errors": [
                {"label": label, "error": answer.error}
                for group in answers
                for label, answer in zip(questions.subjects(), group, strict=True)
                if answer.error is not None
            ],
        }

    def _is_sure(self, found: Found) -> bool:
        limit = self.label_thresholds.get(found.label, self.threshold)
        return found.score is None or found.score >= limit

    def _locate(
        self, doc: Doc, text: str, window: Window, found: Iterable[Found], refused: list[Refused]
    ) -> Iterator[Mention]:
        part = text[window.start : window.end]
        for each in found:
            words = find_occurrences(part, each.text, tolerant=True)
            # What the document's own tokens end at is no inside of a word, as in "20|mg".
            anywhere = find_occurrences(part, each.text, tolerant=True, word_boundary=False)
            ours = ((window.start + start, window.start + end) for start, end in anywhere)
            whole = (doc.char_span(*place) is not None for place in ours)
            places = sorted({*words, *compress(anywhere, whole)})
            places = places[:1] if self.occurrences == "first" else places
            if not places:
                reason = why_not_found(part, each.text)
                refused.append(Refused(each.label, each.text, reason))
            for start, end in places:
                yield Mention(window.start + start, window.start + end, each.label, each.score)

    def _set_ents(self, doc: Doc, spans: Sequence[Span], labels: Iterable[str]) -> None:
        earlier = list(doc.ents)
        blocked: list[Span] = []
        if self.overwrite_ents:
            chosen = resolve(spans, self.conflict, list(labels))
            taken = {i for span in chosen for i in range(span.start, span.end)}
            earlier = [ent for ent in earlier if taken.isdisjoint(range(ent.start, ent.end))]
        else:
            blocked = blocked_tokens(doc)
            chosen = resolve(spans, self.conflict, list(labels), taken=[*earlier, *blocked])
        doc.set_ents([*earlier, *chosen], blocked=blocked)


def merge(
    windows: Sequence[Window],
    located: Sequence[Sequence[Mention]],
    unheard: Set[tuple[int, str]],
    refused: list[Refused],
    text: str,
) -> Iterator[Mention]:
    """Merge the mentions of overlapping windows by their offsets.

    What touches an edge that cuts a sentence may be half an entity. It counts only if a window
    that sees beyond that edge has found it too, or if there is none that was answered about.

    windows (Sequence[Window]): Ascending.
    located (Sequence[Sequence[Mention]]): The mentions of each, with offsets in the whole text.
    unheard (Set[tuple[int, str]]): The windows, by index, and labels that there is no answer to; an
        empty label stands for all.
    refused (list[Refused]): Takes up what does not count.
    text (str): The whole text.
    YIELDS (Mention): The mentions; the same one may come from several windows.
    """
    for i, (window, mentions) in enumerate(zip(windows, located, strict=True)):
        for mention in mentions:
            judges = []
            if window.cut_start and mention.start == window.start:
                judges.append(i - 1)
            if window.cut_end and mention.end == window.end:
                judges.append(i + 1)
            for judge in judges:
                if (judge, mention.label) in unheard or (judge, "") in unheard:
                    continue
                sees = windows[judge].start <= mention.start and mention.end <= windows[judge].end
                if sees and not any(_same(mention, other) for other in located[judge]):
                    item = text[mention.start : mention.end]
                    refused.append(Refused(mention.label, item, AT_CUT))
                    break
            else:
                yield mention


def _same(mention: Mention, other: Mention) -> bool:
    return (mention.start, mention.end, mention.label) == (other.start, other.end, other.label)


def _first_of_each(mentions: Iterable[Mention], text: str) -> Iterator[Mention]:
    """Of each string and label the first mention, over all windows."""
    first: dict[tuple[str, str], Mention] = {}
    for mention in mentions:
        key = (text[mention.start : mention.end], mention.label)
        if key not in first or mention.start < first[key].start:
            first[key] = mention
    yield from first.values()
