"""Real training runs of tiny models: how copying is taught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spacy_universalner.universal_ner.finetune import finetune
from spacy_universalner.universal_ner.finetune_batches import Collator
from spacy_universalner.universal_ner.finetune_data import (
    encode_conversation,
)
from spacy_universalner.universal_ner.finetune_guides import guide_attention, word_tokens
from spacy_universalner.universal_ner.finetune_settings import (
    CopySettings,
    FinetuneSettings,
)
from tests.universal_ner.tuning import (
    CONVERSATION,
    conversations,
    make_settings,
)


def losses(student, folder, epochs, copying=None):
    steady = make_settings({"learning_rate": 0.0, "num_train_epochs": epochs})
    settings = FinetuneSettings(steady.data, steady.training, copying=copying)
    metrics = finetune(settings, str(student), [CONVERSATION] * (8 // epochs), folder)
    return [entry["loss"] for entry in metrics["log"] if "loss" in entry]


@pytest.fixture(scope="module", params=[1, 2])
def plain(request, tiny_llama, tmp_path_factory):
    """A number of epochs, and the losses without copying."""
    return request.param, losses(tiny_llama, tmp_path_factory.mktemp("plain"), request.param)


@pytest.mark.parametrize(
    ("ratio", "steps", "copying_steps"),
    [(0.0, 0, 0), (0.25, 0, 1), (0.5, 0, 2), (1.0, 0, 4), (1.0, 3, 3), (0.5, 3, 2)],
)
def test_the_first_steps_choose_among_the_tokens_of_the_row_alone(
    plain, tiny_llama, tmp_path, ratio, steps, copying_steps
):
    epochs, expected = plain
    copying = CopySettings(ratio=ratio, steps=steps, guidance=0.0, models="all")
    found = losses(tiny_llama, tmp_path, epochs, copying)
    assert len(found) == len(expected) == 4
    for copied, ordinary in zip(found[:copying_steps], expected, strict=False):
        assert copied < 0.9 * ordinary
    assert found[copying_steps:] == expected[copying_steps:]


@pytest.mark.parametrize(("name", "taught"), [("tiny_llama", False), ("tiny_bert_decoder", True)])
def test_only_encoders_are_taught_to_copy(request, name, taught, tmp_path):
    settings = make_settings({"max_steps": 1})
    metrics = finetune(
        FinetuneSettings(settings.data, settings.training, copying=CopySettings()),
        str(request.getfixturevalue(name)),
        [CONVERSATION],
        tmp_path,
    )
    assert (metrics["copying"] is not None) == taught


@pytest.mark.parametrize(("kind", "head"), [("copy", 0), ("match", 1), ("type", 2)])
def test_guided_heads_look_where_they_should(folder, tmp_path, kind, head):
    settings = make_settings({"num_train_epochs": 6})
    layers = {"copy_layers": [], f"{kind}_layers": [-1]}
    guided = replace(settings, copying=CopySettings(ratio=1.0, heads=1, models="all", **layers))

    def attention(path):
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(path)
        batch = Collator(0, model.config, words=word_tokens(tokenizer), guides=[kind])(
            [encode_conversation(tokenizer, item)[0][0] for item in conversations(4)]
        )
        lookups = batch.pop("lookups")[kind]
        del batch["lengths"], batch["labels"]
        with torch.no_grad():
            last = model(**batch, output_attentions=True).attentions[-1]
        others = [number for number in range(last.shape[1]) if number != head]
        return [guide_attention(last[:, heads], lookups).item() for heads in ([head], others)]

    finetune(guided, str(folder), conversations(8), tmp_path)
    before, after = attention(folder), attention(tmp_path)
    assert after[0] < before[0] - 0.5
    assert after[0] < after[1]
