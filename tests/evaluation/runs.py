"""What a run of the workflow leaves behind, made small and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.evaluate import write_predictions
from scripts.evaluate_nuner import summarize
from spacy_universalner.data.annotation.summary import frequency_bands
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.evaluation.results import Prediction, make_results
from spacy_universalner.ty import Mention, Passage

# Whatever stands in texts, types and answers must not become markup.
TEXT = "Ada <b>Lovelace</b> & Charles met in Turin."
GOLD = (Mention(0, 20, "PERSON"), Mention(23, 30, "PERSON"), Mention(38, 43, "CITY"))
WRONG = (Mention(0, 3, "PERSON"), Mention(38, 43, "A<i>B"))


def make_run(folder: Path) -> tuple[Path, Path]:
    """Write all files that the report reads; returns the folders of metrics and models."""
    metrics, training = folder / "metrics", folder / "training"
    passages = [Passage(f"gold-{i}", TEXT, GOLD) for i in range(12)]
    data = folder / "gold.jsonl"
    data.write_text("gold", "utf8")
    for name in ("nuner", "uniner"):
        counts = {"person": 40, "city & <town>": 12, **{f"rare {i}": 1 for i in range(30)}}
        annotation = {"texts": 100, "kept": 98, "words": 900, "entities": 82, "types": 32}
        annotation |= {"types_seen_once": 30, "dropped_texts": {"no answer": 2}}
        annotation |= {"rejects": {"not in text": 3}}
        annotation |= {"examples": {"not in text": [{"id": "7", "item": "<script>alert(1)"}]}}
        annotation |= {"frequency_bands": frequency_bands(counts), "type_counts": counts}
        write(metrics / f"annotation_{name}.json", annotation)
    good = [Prediction(passage, ("PERSON", "CITY"), GOLD[:2]) for passage in passages]
    bad = [Prediction(passage, ("PERSON", "CITY"), WRONG) for passage in passages]
    for name, predictions in (
        ("zero_shot_tuned", good),
        ("zero_shot_untuned", bad),
        ("heldout_tuned", good),
        ("heldout_untuned", bad),
    ):
        frequencies = {"PERSON": 5, "CITY": 1} if name.startswith("heldout") else None
        results = make_results(predictions, frequencies=frequencies, samples=10)
        results |= {"pipeline": "training/universal_ner", "types": "pipeline", "seed": 0}
        results |= {"provenance": provenance([data]), "config": {"nlp": {"lang": "en"}}}
        write(metrics / f"{name}.json", results)
        write_predictions(metrics / f"{name}.jsonl", predictions)
    runs = []
    # NuNER is ahead on few sentences and behind on all
    for encoder, few, whole in (("base", 0.3, 0.6), ("nuner", 0.4, 0.58)):
        write_predictions(metrics / f"nuner.{encoder}.jsonl", bad)
        for k, seed, f1 in ((None, None, whole), (8, 0, few), (8, 1, few + 0.02)):
            run = {"encoder": encoder, "k": k, "seed": seed, "sentences": 10 if k else 90}
            run |= {"ents_p": f1, "ents_r": f1, "ents_f": f1}
            run |= {"ents_per_type": {"PERSON": {"p": 0.5, "r": 0.5, "f": 0.5}}}
            runs.append(run)
    results = {"runs": runs, "summary": summarize(runs), "provenance": provenance([data])}
    write(metrics / "nuner.json", results)
    return metrics, training


def add_logs(metrics: Path, training: Path) -> None:
    """Write the logs that a report can do without."""
    # The last one is of another command.
    for i, (stage, seconds) in enumerate(
        [("annotate", 9.0), ("pretrain", 400.0), ("ablate", 7200.0)]
    ):
        step = {"stage": stage, "step": "", "command": "python -m <x>", "seconds": seconds}
        write(metrics / "stages" / f"{stage}.json", {**step, "started": f"2026-01-01T00:0{i}"})
    epochs = [{"epoch": i, "loss": 1 / i, "dev_loss": 2 / i} for i in (1, 2, 3)]
    pretraining = {"epochs": epochs, "settings": {"encoder": "embedded", "seed": 0}}
    pretraining |= {"passages": {"train": 90, "dev": 10}, "concepts": 32, "seconds": 400.0}
    pretraining |= {"steps": 30, "steps_planned": 30}
    write(training / "nuner-encoder" / "pretraining.json", pretraining)
    log = [{"loss": 2.0, "step": 10}, {"loss": 1.0, "step": 20}, {"train_runtime": 3.0}]
    finetuning = {"log": log, "parameters": 1234567, "conversations": 55, "seconds": 61.0}
    finetuning |= {"steps": 1200, "steps_planned": 2500}
    write(training / "uniner" / "finetune.json", finetuning)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf8")
