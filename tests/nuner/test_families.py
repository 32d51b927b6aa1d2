"""Encoders of other families, with their kinds of tokenizers, from pre-training to entities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from spacy.tokens import Doc
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    DebertaV2Config,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from spacy_universalner.nuner.pretrain import pretrain
from spacy_universalner.nuner.pretrain_settings import PretrainSettings
from tests import tiny
from tests.nuner.test_component import SENTENCES, found, make_nlp, train
from tests.nuner.test_pretrain import make_passages

SIZES = {
    "hidden_size": tiny.HIDDEN,
    "intermediate_size": 2 * tiny.HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    "initializer_range": 0.3,
}


def byte_level(first: str, last: str, pad: str) -> PreTrainedTokenizerFast:
    """RoBERTa's and ModernBERT's: a word and the space before it are one token."""
    tokenizer = tiny.byte_level_tokenizer(first, pad, last)
    ids = {token: tokenizer.token_to_id(token) for token in (first, last)}
    tokenizer.post_processor = processors.RobertaProcessing(
        (last, ids[last]), (first, ids[first]), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=first, sep_token=last, pad_token=pad
    )


def metaspace() -> PreTrainedTokenizerFast:
    """DeBERTa-v3's: the space before a word is a character of its first token."""
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=specials, unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(tiny.TEXTS * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


FAMILIES = {
    "roberta": (RobertaConfig, {}, lambda: byte_level("<s>", "</s>", "<pad>")),
    "deberta-v3": (
        DebertaV2Config,
        {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
        metaspace,
    ),
    "modernbert": (ModernBertConfig, {}, lambda: byte_level("[CLS]", "[SEP]", "[PAD]")),
}


def make_base(family: str, folder: Path) -> Path:
    """A tiny encoder of a family, untrained."""
    config, more, make_tokenizer = FAMILIES[family]
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return tiny.save(folder, AutoModel.from_config(config(**SIZES, **settings, **more)), tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_goes_from_pre_training_to_entities(family, tmp_path):
    make_base(family, tmp_path / "base")
    settings = PretrainSettings(
        encoder=str(tmp_path / "base"), epochs=3, batch_size=8, learning_rate=3e-3, dropout=False
    )
    runs = [
        pretrain(make_passages(), tmp_path / f"{cached}", replace(settings, cache_frozen=cached))
        for cached in (False, True)
    ]
    for plain, stored in zip(*(run["epochs"] for run in runs), strict=True):
        assert plain == pytest.approx(stored, rel=1e-3)
    losses = [epoch["loss"] for epoch in runs[0]["epochs"]]
    assert runs[0]["mentions_lost"] == 0 and losses[2] < 0.8 * losses[0]

    nlp = make_nlp(tmp_path / "True", encoder={"layers": [-1, -2], "freeze": 0})
    train(nlp)
    for text, entities in SENTENCES:
        assert found(nlp(text)) == entities
    other = make_nlp(tmp_path / "True", encoder={"layers": [-1, -2], "freeze": 0})
    other.from_bytes(nlp.to_bytes())
    long = Doc(nlp.vocab, words=[token.text for _ in range(40) for token in nlp(SENTENCES[0][0])])
    first, second = (pipe(long.copy()) for pipe in (nlp, other))
    assert found(first) == found(second) and first.ents
