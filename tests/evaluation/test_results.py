"""Result tables: hand-counted figures, and parts that add up to the whole."""

from __future__ import annotations

import pytest

from spacy_universalner.evaluation.results import Prediction, band_of_types, make_results
from spacy_universalner.ty import Mention, Passage

TEXT = "Ada met Ada in Turin."
PASSAGE = Passage(
    "1", TEXT, (Mention(0, 3, "person"), Mention(8, 11, "person"), Mention(15, 20, "city"))
)


def test_both_metrics_stand_side_by_side():
    """The spans miss one of two mentions; as strings "Ada" is there, and "Milan" is made up."""
    prediction = Prediction(
        PASSAGE,
        types=("person", "city", "river"),
        mentions=(Mention(0, 3, "person"), Mention(15, 21, "city")),
        strings={"person": ("Ada",), "city": ("Turin.", "Milan")},
    )
    results = make_results([prediction])
    assert (results["texts"], results["entities"], results["questions"]) == (1, 3, 3)
    span, strings, partial = results["span"], results["string_set"], results["partial"]
    assert (span["correct"], span["predicted"], span["gold"]) == (1, 2, 3)
    assert (strings["correct"], strings["predicted"], strings["gold"]) == (2, 3, 2)
    assert (partial["correct"], partial["predicted"], partial["gold"]) == (1.5, 2, 3)
    assert span["f1"] == pytest.approx(0.4)
    assert (span["low"], span["high"]) == (span["f1"], span["f1"])  # one text: nothing to redraw
    assert list(results["per_type"]) == ["city", "person", "river"]
    assert results["per_type"]["person"]["span"]["recall"] == 0.5
    assert list(results["per_length"]) == ["1-16 words"]
    assert "per_domain" not in results
    assert "per_band" not in results


def test_marked_spans_are_compared_as_strings_by_their_texts():
    prediction = Prediction(PASSAGE, ("person",), (Mention(8, 11, "person"),))
    strings = make_results([prediction])["string_set"]
    assert (strings["correct"], strings["predicted"], strings["gold"]) == (1, 1, 2)


def test_a_prediction_of_a_type_nobody_asked_for_is_wrong():
    results = make_results([Prediction(PASSAGE, (), (Mention(0, 3, "cat"),))])
    assert (results["span"]["predicted"], results["span"]["gold"]) == (1, 3)


def test_strings_of_a_type_that_no_text_has_count_against_the_model():
    strings = {"person": ("Ada",), "river": ("Rhine", "Po")}  # neither stands in the text
    results = make_results([Prediction(PASSAGE, ("person",), (), strings)])
    assert (results["string_set"]["correct"], results["string_set"]["predicted"]) == (1, 3)
    assert results["per_type"]["river"]["string_set"]["predicted"] == 2


@pytest.mark.parametrize("breakdown", ["per_type", "per_length", "per_domain", "per_band"])
@pytest.mark.parametrize("metric", ["span", "string_set", "partial"])
def test_parts_add_up_to_the_whole(breakdown: str, metric: str):
    predictions = [
        Prediction(
            Passage(str(i), TEXT + " word" * i * 10, PASSAGE.mentions),
            ("person", "city"),
            PASSAGE.mentions[: i % 4],
            domain="news" if i % 2 else "law",
        )
        for i in range(20)
    ]
    results = make_results(predictions, frequencies={"person": 9, "river": 1})
    parts = results[breakdown].values()
    assert len(parts) > 1
    for count in ("correct", "predicted", "gold"):
        assert sum(part[metric][count] for part in parts) == results[metric][count]


def test_parts_stand_in_their_natural_order():
    predictions = [
        Prediction(Passage(str(n), "word " * n, (Mention(0, 4, "t"),)), (), ())
        for n in (500, 3, 100, 40, 20)
    ]
    results = make_results(predictions)
    assert list(results["per_length"]) == [
        "1-16 words",
        "17-32 words",
        "33-64 words",
        "65-128 words",
        "over 128 words",
    ]


def test_no_predictions_make_a_table_of_zeros():
    results = make_results([])
    assert results["span"]["f1"] == results["string_set"]["f1"] == 0
    assert results["per_type"] == {}


def test_frequency_bands_are_shares_of_types():
    frequencies = {f"type {i:03}": 300 - i for i in range(199)} | {"common": 5000}
    bands = band_of_types(frequencies)
    assert [type_ for type_ in bands if bands[type_] == "top 1%"] == ["common", "type 000"]
    assert sum(band == "1-10%" for band in bands.values()) == 18
    assert sum(band == "the rest" for band in bands.values()) == 180
    assert band_of_types({"b": 1, "a": 1}) == {"a": "the rest", "b": "the rest"}
    assert band_of_types({}) == {}
