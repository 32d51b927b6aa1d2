"""The ways to ask a causal language model about several types, each on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from spacy_llm.models.hf.openllama import OpenLLaMA
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spacy_universalner.ty import Prompt
from spacy_universalner.universal_ner.models.hf import HFModel
from spacy_universalner.universal_ner.tokenization import encode_pieces

Ask = Callable[[Sequence[Sequence[Prompt]]], list[list[str]]]


def generate_loop(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new: int) -> Ask:
    """The released way: one `generate` per text and type."""

    def ask(documents: Sequence[Sequence[Prompt]]) -> list[list[str]]:
        return [[_generate(model, tokenizer, [prompt], new)[0] for prompt in d] for d in documents]

    return ask


def generate_batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new: int) -> Ask:
    """One `generate` per text, its types as a padded batch."""

    def ask(documents: Sequence[Sequence[Prompt]]) -> list[list[str]]:
        return [_generate(model, tokenizer, prompts, new) for prompts in documents]

    return ask


def spacy_llm_hf(folder: str, new: int) -> Ask:
    """spacy-llm's own way to run a Hugging Face model, on weights of a local folder."""

    class Local(OpenLLaMA):
        hf_account = ""  # else it is put before the name

        def _check_model(self) -> None:
            """spacy-llm has a list of names; a local folder is none of them."""

    model = Local(
        name=folder,
        config_init={"torch_dtype": "float32", "device": "cpu"},
        config_run={"max_new_tokens": new, "do_sample": False, "pad_token_id": 0},
        context_length=None,
    )
    return lambda documents: [list(found) for found in model(documents)]


def universal_ner(model: HFModel) -> Ask:
    """This package: a document's types share its text, documents are answered together."""
    return lambda documents: [[a.text for a in found] for found in model.answer(documents)]


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], new: int
) -> list[str]:
    encoded = [encode_pieces(tokenizer, prompt.pieces).ids for prompt in prompts]
    width = max(map(len, encoded))
    ids = torch.tensor([[0] * (width - len(each)) + each for each in encoded])
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in encoded])
    written = model.generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )
    return tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
