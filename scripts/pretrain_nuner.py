"""Pre-train an encoder contrastively on annotated text (NuNER 3.2)."""

from pathlib import Path

import spacy
import typer
from accelerate import PartialState
from spacy.cli._util import parse_config_overrides
from wasabi import msg

from spacy_universalner.data.readers import read_passages
from spacy_universalner.data.sentences import split_sentences
from spacy_universalner.nuner.pretrain import METRICS_FILE, pretrain
from spacy_universalner.nuner.pretrain_settings import read_settings
from spacy_universalner.nuner.probe import FewShotProbe
from spacy_universalner.processes import leave_group_at_end
from spacy_universalner.ty import Passage


@leave_group_at_end()
def main(
    context: typer.Context,
    config: Path = typer.Argument(..., exists=True, dir_okay=False, help="Settings (.cfg)"),
    corpus: Path = typer.Argument(..., exists=True, dir_okay=False, help="Passages (JSONL)"),
    output: Path = typer.Argument(..., file_okay=False, help="Folder of the encoder"),
    encoder: str = typer.Option(None, help="What to start from, if not what CONFIG says"),
    also: list[Path] = typer.Option(
        [], exists=True, dir_okay=False, help="Longer passages: their sentences are texts as well"
    ),
    probe_train: Path = typer.Option(
        None, exists=True, dir_okay=False, help="Passages that a few-shot probe learns from"
    ),
    probe_dev: Path = typer.Option(
        None, exists=True, dir_okay=False, help="Passages that the probe is scored on"
    ),
    probe_k: int = typer.Option(8, min=1, help="Mentions of each type that the probe learns from"),
) -> None:
    """Write the encoder, its tokenizer, a model card and pretraining.json to OUTPUT.

    Settings can be overridden as in `spacy train`: --pretraining.epochs 5. A run that was
    interrupted goes on after its last full epoch. Several processes:
    accelerate launch --num_processes 2 -m scripts.pretrain_nuner ...
    """
    try:
        overrides = parse_config_overrides(context.args)
        if encoder is not None:
            overrides["pretraining.encoder"] = encoder
        settings = read_settings(config, overrides)
        passages = [
            *read_passages(corpus),
            *(text for path in also for text in read_sentences(path)),
        ]
        few_shot = None
        if (probe_train is None) != (probe_dev is None):
            raise ValueError("A probe needs both --probe-train and --probe-dev.")
        if probe_train is not None:
            few_shot = FewShotProbe(
                list(read_passages(probe_train)), list(read_passages(probe_dev)), k=probe_k
            )
        metrics = pretrain(passages, output, settings, probe=few_shot, data=[corpus, *also])
    except (OSError, ValueError, ImportError) as error:
        msg.fail(str(error), exits=1)
    if not PartialState().is_main_process:
        return
    if metrics["mentions_lost"]:
        msg.warn(f"{metrics['mentions_lost']:,} mentions stand beyond the length limit")
    last = metrics["epochs"][metrics["kept_epoch"] - 1]
    msg.table(
        [
            ("passages", f"{metrics['passages']['train']:,}"),
            ("concepts", f"{metrics['concepts']:,}"),
            ("loss", f"{last['loss']:.5f}"),
            ("validation loss", f"{last['dev_loss']:.5f}" if "dev_loss" in last else "none"),
            ("probe", f"{last['probe']:.1%}" if "probe" in last else "none"),
            ("seconds", f"{metrics['seconds']:.0f}"),
            ("words a second", f"{metrics['words_per_second']:,.0f}"),
        ]
    )
    msg.good(f"{output}: pre-trained, details in {METRICS_FILE}")


def read_sentences(path: Path) -> list[Passage]:
    """The sentences of passages that have a mention."""
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    passages = list(read_passages(path))
    sentences = list(split_sentences(passages, nlp))
    kept = [sentence for sentence in sentences if sentence.mentions]
    mentions, found = (sum(len(each.mentions) for each in group) for group in (passages, kept))
    msg.info(
        f"{path}: {len(kept):,} sentences; left out are {len(sentences) - len(kept):,} without a "
        f"mention, and {mentions - found:,} of {mentions:,} mentions that reach over two"
    )
    return kept


app = typer.Typer()
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)

if __name__ == "__main__":
    app()
