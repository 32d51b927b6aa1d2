"""The measurements as tables and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

MANY_DOCUMENTS = (
    "A two-layer Llama, sentences, 3 types, one stream each. Memory is what a stream takes on top "
    "of what the process has already; those after the first use the first one's again."
)


def make_tables(results: dict[str, Any], machine: dict[str, Any]) -> str:
    """Markdown tables of everything that was measured on a machine."""
    lines = [
        "# `universal_ner` against other ways to ask the same model",
        "",
        "    python -m benchmarks.universal_ner",
        "",
        f"{machine['device']}, CPU threads: {machine['threads']}, {machine['clock']} time, PyTorch "
        f"{machine['torch']}. "
        "Random weights, greedy decoding, 16 tokens an answer; seconds per document. "
        "`loop` is the released way, one `generate` per type; `batch` one `generate` per document "
        "over its types. `universal_ner` has 32 documents at hand and batches over them, the "
        "other ways take one a call. *Rate* is the least possible number of tokens (each of the "
        "text, the questions and the answers once) per second, as a share of those of a plain "
        "forward pass over one text. *Same* counts the answers equal to the loop's.",
    ]
    for name, measured in results.items():
        if name == "documents":
            continue
        forward = measured["forward_tokens_per_second"]
        lines += [
            "",
            f"## {name}",
            "",
            f"Plain forward pass: {forward:,.0f} tokens per second.",
            "",
        ]
        lines += _table(
            [
                "text",
                "types",
                "loop",
                "batch",
                "universal_ner",
                "x loop",
                "x batch",
                "rate",
                "same",
            ],
            [
                [
                    str(row["length"]),
                    str(row["types"]),
                    f"{row['loop']:.3f}",
                    f"{row['batch']:.3f}",
                    f"{row['universal_ner']:.3f}",
                    f"{row['loop'] / row['universal_ner']:.1f}",
                    f"{row['batch'] / row['universal_ner']:.1f}",
                    f"{row['least_tokens'] / row['universal_ner'] / forward:.0%}",
                    f"{row['same']}/{row['types']}",
                ]
                for row in measured["grid"]
            ],
        )
        point = {(row["length"], row["types"]): row for row in measured["grid"]}
        more, less = point[220, 25], point[220, 10]
        marginal = (more["universal_ner"] - less["universal_ner"]) / 15
        lines += [
            "",
            f"One more type at 220 tokens and 10 types: {1000 * marginal:.0f} ms, "
            f"{marginal / (less['loop'] / 10):.0%} of the loop's.",
        ]
        if "spacy-llm" in less:
            lines[-1] += (
                f" spacy-llm's own Hugging Face model takes {less['spacy-llm']:.3f} s there, "
                f"{less['spacy-llm'] / less['universal_ner']:.1f} times as long."
            )
        lines += ["", "Memory on top of the weights, 16 documents of 220 tokens and 10 types:", ""]
        lines += _table(
            ["batch_tokens", "s per document", "MB"],
            [
                [
                    str(row["batch_tokens"]),
                    f"{row['seconds_per_document']:.3f}",
                    f"{row['megabytes']:.0f}",
                ]
                for row in measured["budgets"]
            ],
        )
    if "documents" in results:
        lines += ["", "## Many documents", "", MANY_DOCUMENTS, ""]
        lines += _table(
            ["documents", "ms per document", "MB"],
            [
                [
                    str(row["documents"]),
                    f"{row['milliseconds_per_document']:.1f}",
                    f"{row['megabytes']:.0f}",
                ]
                for row in results["documents"]
            ],
        )
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw seconds per document by the number of types, at 220 tokens of text."""
    names = [name for name in results if name != "documents"]
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.4), squeeze=False)
    styles = {
        "loop": ("#b0b0b0", "s"),
        "batch": ("#6f8fb3", "^"),
        "universal_ner": ("#c0392b", "o"),
    }
    for axis, name in zip(axes[0], names, strict=True):
        rows = [row for row in results[name]["grid"] if row["length"] == 220]
        for way, (color, marker) in styles.items():
            axis.plot(
                [row["types"] for row in rows],
                [row[way] for row in rows],
                color=color,
                marker=marker,
                label=way,
            )
        axis.set(title=name, xlabel="types", ylabel="seconds per document", ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---:"] * len(head)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
