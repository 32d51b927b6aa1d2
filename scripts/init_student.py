"""Make the student that UniversalNER is tuned from."""

from pathlib import Path

import typer
from wasabi import msg

from spacy_universalner.universal_ner.student import save_student


def main(
    name: str = typer.Argument(..., help="'embedded', or a folder or hub id: encoder or causal LM"),
    output: Path = typer.Argument(..., file_okay=False, help="Folder of the student"),
    seed: int = typer.Option(0, help="Of the weights that an encoder lacks"),
) -> None:
    """Write a causal language model and its tokenizer, untuned, to OUTPUT."""
    try:
        parameters = save_student(name, output, seed=seed)
    except (OSError, ValueError, ImportError) as error:
        msg.fail(str(error), exits=1)
    msg.good(f"{output}: {parameters / 1e6:.1f}M parameters")


if __name__ == "__main__":
    typer.run(main)
