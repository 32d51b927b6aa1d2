"""The ways to recognise entities with one encoder, with the same weights in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from spacy_universalner.nuner.backbone import load_encoder
from spacy_universalner.precision import computes_in_bfloat16

LABELS = ("PERSON", "ORGANIZATION", "LOCATION", "DATE", "EVENT", "PRODUCT", "LAW", "MONEY")
Run = Callable[[Sequence[str]], object]

# What `spacy init config --pipeline ner --gpu` writes: windows of 128 tokens, a parser on top.
TRANSFORMER_NER = """
[nlp]
lang = "en"
pipeline = ["transformer", "ner"]

[components]

[components.transformer]
factory = "transformer"

[components.transformer.model]
@architectures = "spacy-transformers.TransformerModel.v3"
name = "{encoder}"
tokenizer_config = {{"use_fast": true}}

[components.transformer.model.get_spans]
@span_getters = "spacy-transformers.strided_spans.v1"
window = 128
stride = 96

[components.ner]
factory = "ner"

[components.ner.model]
@architectures = "spacy.TransitionBasedParser.v2"
state_type = "ner"
extra_state_tokens = false
hidden_width = 64
maxout_pieces = 2
use_upper = false

[components.ner.model.tok2vec]
@architectures = "spacy-transformers.TransformerListener.v1"
grad_factor = 1.0
pooling = {{"@layers":"reduce_mean.v1"}}
"""


def make_transformer_ner(encoder: Path) -> Language:
    """spaCy's own `transformer` and `ner`, not yet initialised."""
    config = Config().from_str(TRANSFORMER_NER.format(encoder=encoder))
    return spacy.util.load_model_from_config(config, auto_fill=True)


def make_nuner(encoder: Path, precision: str = "float32") -> Language:
    """A pipeline with `nuner`, not yet initialised."""
    nlp = spacy.blank("en")
    tok2vec = {
        "@architectures": "spacy-universalner.NuNEREncoder.v1",
        "name": str(encoder),
        "precision": precision,
    }
    nlp.add_pipe("nuner", config={"model": {"tok2vec": tok2vec}})
    return nlp


def initialise(nlp: Language) -> Language:
    """Give a pipeline weights and one example of each label."""
    words = [label.lower() for label in LABELS]
    doc = Doc(nlp.vocab, words=words, ents=[f"B-{label}" for label in LABELS])
    nlp.initialize(lambda: [Example(Doc(nlp.vocab, words=words), doc)])
    return nlp


def spacy_run(nlp: Language) -> Run:
    initialise(nlp)
    return lambda texts: list(nlp.pipe(texts))


def huggingface_run(encoder: Path) -> Run:
    """The token-classification pipeline at batch size 32."""
    classes = 2 * len(LABELS) + 1
    classifier = pipeline(
        "token-classification",
        model=AutoModelForTokenClassification.from_pretrained(encoder, num_labels=classes),
        tokenizer=AutoTokenizer.from_pretrained(encoder),
        aggregation_strategy="simple",
        device="cpu",
    )
    return lambda texts: classifier(list(texts), batch_size=32)


def forward_run(encoder: Path) -> Run:
    """Nothing but wordpieces and the encoder, in batches of 32 sorted by length: no entities."""
    model, tokenizer = load_encoder(str(encoder))
    model.eval()

    def run(texts: Sequence[str]) -> None:
        rows = sorted(tokenizer(list(texts))["input_ids"], key=len)
        with torch.inference_mode():
            for start in range(0, len(rows), 32):
                batch = tokenizer.pad({"input_ids": rows[start : start + 32]}, return_tensors="pt")
                model(**batch)

    return run


def gliner_run(encoder: Path) -> Run:
    """GLiNER with random weights on the same encoder and ten labels, where it is installed."""
    from gliner import GLiNER, GLiNERConfig

    config = GLiNERConfig(model_name=str(encoder), fine_tune=False, max_len=384)
    model = GLiNER.from_config(config)
    model.eval()
    labels = [*(label.lower() for label in LABELS), "disease", "animal"]
    return lambda texts: model.inference(list(texts), labels, threshold=0.9, batch_size=32)


SYSTEMS: dict[str, Callable[[Path], Run]] = {
    "spaCy transformer + ner": lambda encoder: spacy_run(make_transformer_ner(encoder)),
    "Hugging Face token classification": huggingface_run,
    "bare forward, sorted": forward_run,
    "nuner float32": lambda encoder: spacy_run(make_nuner(encoder)),
    "nuner bfloat16": lambda encoder: spacy_run(make_nuner(encoder, "bfloat16")),
    "nuner int8": lambda encoder: spacy_run(make_nuner(encoder, "int8")),
    "GLiNER, 10 labels": gliner_run,
}
if not computes_in_bfloat16(torch.device("cpu")):  # it would be emulated
    del SYSTEMS["nuner bfloat16"]
