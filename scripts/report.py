"""Write the report on a run of the workflow: `index.html` and `report.md`."""

from pathlib import Path

import typer
from wasabi import msg

from spacy_universalner.evaluation.report import read_run, write_report


def main(
    metrics: Path = typer.Argument(..., exists=True, file_okay=False, help="Folder of metrics"),
    training: Path = typer.Argument(..., exists=True, file_okay=False, help="Folder of the models"),
    output: Path = typer.Argument(..., file_okay=False, help="Folder of the report"),
) -> None:
    """Write OUTPUT/index.html, OUTPUT/report.md and OUTPUT/figures/."""
    try:
        files = write_report(read_run(metrics, training), output)
    except (FileNotFoundError, ImportError, ValueError) as error:
        msg.fail("Cannot write the report", str(error), exits=1)
    msg.good(f"{files[0]}, {files[1]}")


if __name__ == "__main__":
    typer.run(main)
