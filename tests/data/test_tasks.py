from __future__ import annotations

from pathlib import Path

import pytest
import spacy

from spacy_universalner.data.annotation.filters import is_english, says_nothing
from spacy_universalner.data.annotation.tasks import (
    annotation_of,
    make_nuner_annotation_task,
    make_uniner_annotation_task,
)
from spacy_universalner.data.annotation.templates import render_prompt
from spacy_universalner.ty import CutAnswer, Mention, NoAnswer, Reject


def test_the_prompt_of_nuner() -> None:
    prompt = render_prompt("nuner", "A <b> & {{ c }}.")
    assert prompt.startswith("The goal is to create a dataset for entity recognition. Label as")
    assert prompt.endswith(
        "\n\nOutput format (separate entities with new line): entity from the text <> entity "
        "concept <> description of entity group/concept\nInput: A <b> & {{ c }}."
    )


def test_the_prompts_of_uniner() -> None:
    assert render_prompt("uniner", "Hi.") == (
        "Given a passage, your task is to extract all entities and identify their entity types. "
        "The output should be in a list of tuples of the following format: "
        '[("entity 1", "type of entity 1"), ... ].\n\nPassage: Hi.'
    )
    assert render_prompt("uniner_definition", "Hi.") == render_prompt("uniner", "Hi.").replace(
        "extract all entities and identify their entity types",
        "extract all entities and concepts, and define their type using a short sentence",
    )


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("Annotate: {{ text }}\n", encoding="utf8")
    assert render_prompt(str(path), "Hi.") == "Annotate: Hi."
    with pytest.raises(
        ValueError, match=r"no annotation template 'nuna'\. Use one of nuner, uniner,"
    ):
        render_prompt("nuna", "Hi.")


def test_nuner_reads_locates_and_describes() -> None:
    annotation = make_nuner_annotation_task().read(
        "Ada met Ada in Rome.",
        "Ada <> person <> a human\nAda <> person <> again\nRome <> city\nParis <> city\nwhat",
    )
    assert annotation.mentions == (
        Mention(0, 3, "person"),
        Mention(8, 11, "person"),
        Mention(15, 19, "city"),
    )
    assert annotation.rejects == (
        Reject("what", "unparseable"),
        Reject("Ada <> person", "repeated in the answer"),
        Reject("Paris", "not in text"),
    )
    assert annotation.descriptions == {("Ada", "person"): "a human"}
    assert annotation.dropped is None


def test_nuner_drops_sentences_with_the_concept_concept() -> None:
    task = make_nuner_annotation_task()
    dropped = task.read("Love is all.", "Love <> Concept <> idea\nall <> quantity").dropped
    assert dropped == Reject("Love", 'text with the concept "concept"')
    assert task.read("Love is all.", "Love <> legal concept").dropped is None
    kept = make_nuner_annotation_task(dropped_concepts=()).read("Love.", "Love <> concept")
    assert kept.mentions == (Mention(0, 4, "concept"),)


def test_uniner_filters_types_that_say_nothing_and_other_scripts() -> None:
    annotation = make_uniner_annotation_task().read(
        "Ada, Москва, 5 km and Bob", '[("Ada", "MISC."), ("Москва", "city"), ("5 km", "length")]'
    )
    assert annotation.mentions == (Mention(13, 17, "length"),)
    assert annotation.rejects == (
        Reject("Ada <> MISC.", "type that says nothing"),
        Reject("Москва <> city", "not English"),
    )
    # The word for the type is English, the entity is not.
    city = make_uniner_annotation_task().read("北京 and 5", '[("北京", "location"), ("5", "name")]')
    assert city.rejects == (Reject("北京 <> location", "not English"),)
    lenient = make_uniner_annotation_task(english_only=False, empty_types=())
    answer = '[("Ada", "MISC"), ("Москва", "city")]'
    assert len(lenient.read("Ada, Москва", answer).mentions) == 2


def test_an_answer_without_a_list_drops_the_passage() -> None:
    task = make_uniner_annotation_task()
    assert task.read("Ada", "I cannot do that.").dropped == Reject(
        "I cannot do that.", "unparseable answer"
    )
    assert task.read("Ada", "[]").dropped is None
    assert task.read("Ada", NoAnswer("timeout")).dropped == Reject("timeout", "no answer")


def test_an_answer_that_was_cut_off_is_used_as_far_as_it_is_whole() -> None:
    task = make_nuner_annotation_task()
    annotation = task.read("Ada saw Rome.", CutAnswer("Ada <> person\nRome <> ci"))
    assert annotation.mentions == (Mention(0, 3, "person"),)
    assert annotation.rejects == (Reject("Rome <> ci", "cut off"),)
    assert task.read("Ada saw Rome.", CutAnswer("Ada <> per")).dropped == Reject(
        "Ada <> per", "answer cut off"
    )
    uniner = make_uniner_annotation_task()
    assert uniner.read("Ada.", CutAnswer('[("Ada", "person"), (')).mentions == (
        Mention(0, 3, "person"),
    )


def test_a_doc_gets_overlapping_spans_on_whole_tokens() -> None:
    nlp = spacy.blank("en")
    doc = nlp("Mahler's Fifth, C$11.20")
    task = make_nuner_annotation_task(spans_key="sc")
    answer = "Mahler <> composer\nMahler's Fifth <> symphony\n$11.20 <> price"
    (parsed,) = task.parse_responses([doc], [[answer]])
    assert parsed is doc
    assert [(span.text, span.label_) for span in doc.spans["sc"]] == [
        ("Mahler", "composer"),
        ("Mahler's Fifth", "symphony"),
        ("C$11.20", "price"),
    ]
    assert annotation_of(doc).mentions[2] == Mention(17, 23, "price")  # the offsets stay exact


@pytest.mark.parametrize(
    "text, english",
    [("Zoë Müller", True), ("β-carotene", True), ("北京", False), ("12%", True), ("", True),
     ("Москва (Moscow)", True), ("Москва", False)],
)  # fmt: skip
def test_english_is_judged_by_script(text: str, english: bool) -> None:
    assert is_english(text) is english


@pytest.mark.parametrize("label", ["None", "N/A", "misc", "Misc.", " OTHER "])
def test_types_that_say_nothing(label: str) -> None:
    assert make_uniner_annotation_task().read("a", f'[("a", "{label}")]').mentions == ()


def test_types_that_say_something() -> None:
    assert not says_nothing("other drug", {"other"})
