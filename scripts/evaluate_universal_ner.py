"""Score several pipelines with `universal_ner` on a task of their own and on held-out passages."""

from pathlib import Path
from typing import Annotated

import typer
from wasabi import msg

from scripts import evaluate


def main(
    system: Annotated[list[str], typer.Argument(help="NAME=PIPELINE, once for each system")],
    metrics: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the results")],
    gold: Annotated[Path, typer.Option(exists=True, help="Asked for the pipelines' own labels")],
    heldout: Annotated[
        Path, typer.Option(exists=True, help="Each text is asked for its own types and absent ones")
    ],
    train: Annotated[
        Path, typer.Option(exists=True, help="Conversations: their type frequencies are used")
    ],
    limit: Annotated[
        list[str] | None, typer.Option(help="NAME=N: ask this system about N texts of each file")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the absent types and the bootstrap")] = 0,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write METRICS/zero_shot_NAME.json and METRICS/heldout_NAME.json, as `scripts.evaluate`."""
    systems = dict(split(pair) for pair in system)
    limits = {}
    for name, number in map(split, limit or []):
        if name not in systems:
            msg.fail(f"--limit {name}: there is no such system", ", ".join(systems), exits=1)
        if not number.isdecimal() or not int(number):
            msg.fail(f"--limit {name}={number}: expected a whole number of at least 1", exits=1)
        limits[name] = int(number)
    for pipeline in systems.values():
        if not Path(pipeline, "config.cfg").is_file():
            msg.fail(f"{pipeline} is no folder of a pipeline", exits=1)
    for name, pipeline in systems.items():
        texts = limits.get(name)
        msg.divider(name)
        evaluate.main(
            Path(pipeline),
            [gold],
            metrics / f"zero_shot_{name}.json",
            limit=texts,
            seed=seed,
            gpu_id=gpu_id,
        )
        evaluate.main(
            Path(pipeline),
            [heldout],
            metrics / f"heldout_{name}.json",
            types=evaluate.Types.passage,
            train=train,
            limit=texts,
            seed=seed,
            gpu_id=gpu_id,
        )


def split(pair: str) -> tuple[str, str]:
    """NAME and VALUE of NAME=VALUE."""
    name, equals, value = pair.partition("=")
    if not (name and equals and value):
        msg.fail(f"'{pair}' is not NAME=VALUE", exits=1)
    return name, value


if __name__ == "__main__":
    typer.run(main)
