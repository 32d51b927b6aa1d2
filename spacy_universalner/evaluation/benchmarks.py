"""Public NER data sets: their files, what their labels are called when asked, published figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# Labels that name no type; they are neither asked nor scored (UniversalNER 4).
NO_TYPES = frozenset({"misc", "miscellaneous", "else", "other", "others", "o", "none", "na"})

# Labels that are not the words that describe them.
WORDS = MappingProxyType(
    {
        "per": "person",
        "org": "organization",
        "organisation": "organization",
        "loc": "location",
        "gpe": "geopolitical entity",
        "academicjournal": "academic journal",
        "astronomicalobject": "astronomical object",
        "chemicalcompound": "chemical compound",
        "chemicalelement": "chemical element",
        "literarygenre": "literary genre",
        "musicalartist": "musical artist",
        "musicalinstrument": "musical instrument",
        "musicgenre": "music genre",
        "politicalparty": "political party",
        "programlang": "program language",
        "ratings_average": "average rating",
    }
)


@dataclass(frozen=True)
class Benchmark:
    """A data set.

    name (str): As in tables.
    train (str): File name of the part that few-shot training sets are drawn from.
    test (str): File name of the test set.
    published (Mapping[str, float]): Zero-shot string-set F1 in per cent of the systems of
        UniversalNER's Table 3.
    capitals (bool): Whether its labels are asked for with capitals, as in UniversalNER's published
        evaluation records.
    """

    name: str
    train: str
    test: str
    published: Mapping[str, float] = field(default_factory=dict)
    capitals: bool = False

    def words(self, labels: Collection[str]) -> dict[str, str]:
        """What is asked for each of its labels that names a type.

        labels (Collection[str]): The labels.
        RETURNS (dict[str, str]): Labels with their words, sorted by label.
        """
        words = word_labels(labels)
        return {key: asked.title() for key, asked in words.items()} if self.capitals else words


def _published(uniner_7b: float, uniner_13b: float, chatgpt: float) -> Mapping[str, float]:
    return {"UniNER-7B": uniner_7b, "UniNER-13B": uniner_13b, "ChatGPT": chatgpt}


def _crossner(name: str, published: Mapping[str, float]) -> Benchmark:
    key = f"crossner_{name.lower()}"
    return Benchmark(f"CrossNER {name}", f"{key}_train.txt", f"{key}_test.txt", published)


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "mit_movie": Benchmark(
            "MIT Movie", "mit_movie_train.txt", "mit_movie_test.txt", _published(42.4, 48.7, 5.3)
        ),
        "mit_restaurant": Benchmark(
            "MIT Restaurant",
            "mit_restaurant_train.txt",
            "mit_restaurant_test.txt",
            _published(31.7, 36.2, 32.8),
            capitals=True,
        ),
        "crossner_ai": _crossner("AI", _published(53.5, 54.2, 52.4)),
        "crossner_literature": _crossner("Literature", _published(59.4, 60.9, 39.8)),
        "crossner_music": _crossner("Music", _published(65.0, 64.5, 66.6)),
        "crossner_politics": _crossner("Politics", _published(60.8, 61.4, 68.5)),
        "crossner_science": _crossner("Science", _published(61.1, 63.5, 67.0)),
        # The training pool is the development part.
        "jnlpba": Benchmark("BioNLP 2004", "jnlpba_devel.txt", "jnlpba_test.txt"),
    }
)
ZERO_SHOT = tuple(key for key, benchmark in BENCHMARKS.items() if benchmark.published)
FEW_SHOT = ("mit_movie", "mit_restaurant", "jnlpba")

# NuNER's Table 3, frozen few-shot token macro-F1 in per cent: k to (RoBERTa, NER-BERT data, NuNER).
# The paper's mean is over four data sets: those of `FEW_SHOT` and OntoNotes 5.
PUBLISHED_FEW_SHOT: Mapping[int, tuple[float, float, float]] = MappingProxyType(
    {
        1: (24.46, 32.32, 39.37),
        2: (35.30, 42.33, 51.46),
        4: (44.65, 50.94, 59.60),
        8: (52.56, 57.42, 64.78),
        16: (58.12, 61.85, 67.84),
        32: (62.00, 64.96, 69.98),
        64: (65.42, 67.61, 71.53),
    }
)

# NuNER's Tables 8 and 9, full fine-tuning, entity micro-F1 in per cent: by k and data set.
PUBLISHED_FINE_TUNED: Mapping[int, Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        8: {
            "jnlpba": (43.84, 2.18),
            "mit_movie": (58.69, 1.16),
            "mit_restaurant": (62.66, 2.28),
        },
        64: {
            "jnlpba": (61.18, 1.15),
            "mit_movie": (65.56, 0.29),
            "mit_restaurant": (73.66, 0.65),
        },
    }
)


# NuNER's Tables 4 to 7, frozen few-shot token macro-F1 in per cent: what is varied to the table's
# name, its columns, and k to its row.
PUBLISHED_ABLATIONS: Mapping[str, tuple[str, tuple[str, ...], Mapping[int, tuple[float, ...]]]] = (
    MappingProxyType(
        {
            "source": (
                "Table 4",
                ("anchors, Wikipedia", "LLM, Wikipedia", "LLM, C4"),
                {
                    1: (32.52, 38.23, 38.64),
                    4: (50.35, 57.32, 57.82),
                    16: (61.82, 66.39, 66.76),
                    64: (67.46, 70.74, 70.93),
                },
            ),
            "concepts": (
                "Table 5",
                ("4 (12.5%)", "16 (25%)", "154 (50%)", "1500 (75%)", "80K (100%)"),
                {
                    1: (32.78, 36.95, 39.56, 39.45, 38.83),
                    4: (52.57, 54.75, 56.60, 57.58, 57.97),
                    16: (63.74, 65.05, 65.49, 66.38, 66.83),
                    64: (69.31, 70.02, 70.03, 70.76, 71.04),
                },
            ),
            "size": (
                "Table 6",
                ("1K", "3K", "10K", "30K", "100K", "300K", "1M"),
                {
                    1: (32.8, 35.6, 37.3, 38.3, 38.9, 39.3, 39.4),
                    4: (54.0, 56.2, 56.9, 57.6, 58.1, 59.1, 59.6),
                    16: (64.3, 65.4, 66.1, 66.6, 66.9, 67.7, 67.8),
                    64: (68.3, 69.4, 70.0, 70.7, 71.1, 71.6, 71.5),
                },
            ),
            "depth": (
                "Table 7",
                ("NuNER (base)", "NuNER (large)"),
                {1: (39.37, 42.02), 4: (59.60, 61.33), 16: (67.84, 68.79), 64: (71.53, 71.99)},
            ),
        }
    )
)


def word_label(label: str) -> str | None:
    """What is asked for a label: natural language in place of abbreviations (UniversalNER 4).

    label (str): The label, such as "ORG", "programlang" or "Restaurant_Name".
    RETURNS (str | None): The words; None for a label that names no type.
    """
    low = label.lower()
    if low in NO_TYPES:
        return None
    return WORDS.get(low, low.replace("_", " ").replace("-", " "))


def word_labels(labels: Collection[str]) -> dict[str, str]:
    """What is asked for each label that names a type.

    labels (Collection[str]): The labels of a data set.
    RETURNS (dict[str, str]): Labels with their words, sorted by label.
    """
    words = {label: word_label(label) for label in sorted(labels)}
    return {label: asked for label, asked in words.items() if asked is not None}
