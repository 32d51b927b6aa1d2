"""What the requests of an annotation run cost, by a table that the user can edit."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

# The providers' own rule of thumb for English; each model has a tokenizer of its own.
CHARACTERS_PER_TOKEN = 4


def count_tokens(text: str) -> int:
    """Estimate a text's tokens from its characters."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens.

    prompt (float): Sent.
    response (float): Received.
    """

    prompt: float
    response: float

    def cost(self, prompt_tokens: int, response_tokens: int) -> float:
        """The US dollars for so many tokens."""
        return (self.prompt * prompt_tokens + self.response * response_tokens) / 1e6


def read_price(path: Path, model: str) -> Price | None:
    """Look a model up.

    path (Path): CSV with the columns model, prompt and response.
    model (str): The model's name.
    RETURNS (Price | None): Its price, or None if it is not in the table.
    RAISES (ValueError): A row that cannot be read, with its place.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a mark
        reader = csv.DictReader(file)
        for row in reader:
            try:
                if row["model"] == model:
                    return Price(float(row["prompt"]), float(row["response"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}:{reader.line_num}: expected model,prompt,response with prices in US "
                    f"dollars for a million tokens; found {row}"
                ) from error
    return None
