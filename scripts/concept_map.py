"""Draw the map of concepts (NuNER Figure 6) that a pre-trained concept encoder sees."""

from collections import Counter
from pathlib import Path
from typing import Any

import srsly
import typer
from wasabi import msg

from spacy_universalner.data.readers import read_passages
from spacy_universalner.evaluation.concept_map import draw_image, draw_page, make_concept_map
from spacy_universalner.nuner.backbone import load_encoder
from spacy_universalner.nuner.contrastive import embed_concepts
from spacy_universalner.nuner.pretrain import CONCEPT_ENCODER, METRICS_FILE


def main(
    encoder: Path = typer.Argument(..., exists=True, file_okay=False, help="Pre-trained encoder"),
    corpus: Path = typer.Argument(..., exists=True, dir_okay=False, help="Passages (JSONL)"),
    output: Path = typer.Argument(..., dir_okay=False, help="File to write, .html or an image"),
    most: int = typer.Option(50_000, min=20, help="As many of the commonest concepts"),
    seed: int = typer.Option(0, help="Seed of the projection"),
) -> None:
    """Place and colour are projections of the concepts' vectors by UMAP."""
    counts = Counter(
        mention.label for passage in read_passages(corpus) for mention in passage.mentions
    )
    common = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])
    try:
        settings = read_pretraining(encoder)
        model, tokenizer = load_encoder(str(encoder / CONCEPT_ENCODER))
        with msg.loading(f"Placing {len(common):,} concepts ..."):
            vectors = embed_concepts(model, tokenizer, list(common), pooling=settings["pooling"])
            concept_map = make_concept_map(common, vectors.numpy(), seed=seed)
        title = f"{len(common):,} concepts of {corpus.name}"
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix == ".html":
            output.write_text(draw_page(concept_map, title), encoding="utf8")
        else:
            draw_image(concept_map, title).savefig(output, dpi=150)
    except (ImportError, OSError, ValueError) as error:
        msg.fail(str(error), exits=1)
    msg.good(f"{output}: {title}")


def read_pretraining(encoder: Path) -> dict[str, Any]:
    """The settings that an encoder was pre-trained with."""
    path = encoder / METRICS_FILE
    metrics = srsly.read_json(path) if path.is_file() else {}
    if "settings" not in metrics or not (encoder / CONCEPT_ENCODER).is_dir():
        raise ValueError(f"{encoder} has no concept encoder: it is no output of pretrain_nuner.")
    return metrics["settings"]


if __name__ == "__main__":
    typer.run(main)
