"""Conversations and settings to fine-tune tiny models with."""

from __future__ import annotations

from transformers import AutoModelForCausalLM, AutoTokenizer

from spacy_universalner.ty import Conversation, Question
from spacy_universalner.universal_ner.finetune_settings import (
    DataSettings,
    FinetuneSettings,
)

CONVERSATION = Conversation(
    "1",
    "Marie Curie won the Nobel Prize in Paris in 1903 with Pierre Curie.",
    (
        Question("person", ("Marie Curie", "Pierre Curie")),
        Question("organization"),
        Question("location", ("Paris",)),
    ),
)


SHORT = Conversation("2", "Paris.", (Question("location", ("Paris",)),))


TRAINING = {
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 2,
    "num_train_epochs": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def make_settings(training=None, **data) -> FinetuneSettings:
    return FinetuneSettings(DataSettings(**data), {**TRAINING, **(training or {})})


def conversations(number: int) -> list[Conversation]:
    names = ["Marie Curie", "Henrik Dalgaard", "Pierre Curie", "Barack Obama", "Jutland"]
    return [
        Conversation(
            str(i),
            f"{names[i % 5]} was born in Paris in {1900 + i}.",
            (Question("person", (names[i % 5],)), Question("city"), Question("year")),
        )
        for i in range(number)
    ]
