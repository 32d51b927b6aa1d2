"""Tune a causal language model on conversations (UniversalNER 3.2)."""

from pathlib import Path

import typer
from accelerate import PartialState
from spacy.cli._util import parse_config_overrides
from wasabi import msg

from spacy_universalner.data.readers import read_conversations
from spacy_universalner.processes import leave_group_at_end
from spacy_universalner.universal_ner.finetune import METRICS_FILE, finetune
from spacy_universalner.universal_ner.finetune_settings import read_settings


@leave_group_at_end()
def main(
    context: typer.Context,
    config: Path = typer.Argument(..., exists=True, dir_okay=False, help="Settings (.cfg)"),
    student: str = typer.Argument(..., help="Folder or hub id of any causal language model"),
    conversations: Path = typer.Argument(..., exists=True, dir_okay=False, help="JSONL"),
    output: Path = typer.Argument(..., file_okay=False, help="Folder of the tuned model"),
    dev: Path = typer.Option(None, exists=True, dir_okay=False, help="Conversations to evaluate"),
    resume: bool = typer.Option(False, "--resume", help="Go on from OUTPUT's last checkpoint"),
) -> None:
    """Write the tuned model, its tokenizer and finetune.json to OUTPUT.

    Settings can be overridden as in `spacy train`: --training.learning_rate 1e-4
    """
    try:
        settings = read_settings(config, parse_config_overrides(context.args))
        metrics = finetune(
            settings,
            student,
            read_conversations(conversations),
            output,
            dev_conversations=read_conversations(dev) if dev else (),
            resume=resume,
            data=[conversations, *([dev] if dev else [])],
        )
    except (OSError, ValueError, ImportError) as error:
        msg.fail(str(error), exits=1)
    if not PartialState().is_main_process:
        return
    for reject in metrics["rejects"]:
        msg.warn(f"Left out: '{reject['item']}' of {reject['id']}, {reject['reason']}")
    msg.table(
        [
            ("loss", f"{metrics['loss']:.3f}"),
            ("seconds", f"{metrics['seconds']:.0f}"),
            ("tokens a second", f"{metrics['tokens_per_second']:,.0f}"),
            ("padding", f"{metrics['padding_share']:.1%}"),
        ]
    )
    msg.good(f"{output}: tuned, details in {METRICS_FILE}")


app = typer.Typer()
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)

if __name__ == "__main__":
    app()
