"""The loss on answers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from spacy_universalner.universal_ner.finetune_batches import Collator
from spacy_universalner.universal_ner.finetune_data import (
    IGNORE_INDEX,
    encode_conversation,
)
from spacy_universalner.universal_ner.finetune_loss import (
    answer_loss,
    only_targets,
    own_tokens,
)
from tests.universal_ner.tuning import (
    CONVERSATION,
    SHORT,
    load,
)


def two_rows(model, tokenizer):
    rows = [
        encode_conversation(tokenizer, conversation)[0][0] for conversation in (CONVERSATION, SHORT)
    ]
    batch = Collator(0, model.config)(rows)
    del batch["lengths"]
    return batch


def test_loss_on_selected_positions_equals_the_models_own(folder):
    model, tokenizer = load(folder)
    batch = two_rows(model, tokenizer)
    expected = model(**batch).loss
    expected.backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    labels = batch.pop("labels")
    with only_targets(model.get_output_embeddings(), labels):
        outputs = model(**batch)
    loss = answer_loss(outputs, labels)
    loss.backward()
    assert outputs.logits.shape[0] == int((labels != IGNORE_INDEX).sum())
    assert torch.allclose(loss, expected, atol=1e-5)
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    for gradient, own in zip(found, gradients, strict=True):
        assert torch.allclose(gradient, own, atol=1e-5)
    assert model(**batch).logits.shape[:2] == labels.shape  # the hook is gone


def test_copying_is_the_models_own_loss_among_the_tokens_of_the_row(folder):
    model, tokenizer = load(folder)
    batch = two_rows(model, tokenizer)
    labels = batch.pop("labels")
    logits = model(**batch).logits
    losses = []
    for row, targets, scores in zip(batch["input_ids"], labels, logits, strict=True):
        others = torch.ones(scores.shape[-1], dtype=torch.bool)
        others[row] = False
        scores = scores.masked_fill(others, -torch.inf)[:-1]
        losses.append(functional.cross_entropy(scores, targets[1:], reduction="none"))
    learned = labels[:, 1:] != IGNORE_INDEX
    expected = torch.stack(losses)[learned].mean()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(expected, weights, allow_unused=True)
    choices, places = own_tokens(batch["input_ids"], labels)
    with only_targets(model.get_output_embeddings(), labels, choices):
        outputs = model(**batch)
    loss = answer_loss(outputs, places)
    assert outputs.logits.shape == (int(learned.sum()), len(torch.unique(batch["input_ids"])))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for gradient, own in zip(
        gradients, torch.autograd.grad(loss, weights, allow_unused=True), strict=True
    ):
        assert (gradient is None) == (own is None)
        assert gradient is None or torch.allclose(gradient, own, atol=1e-5)
