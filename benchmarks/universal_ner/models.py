"""The models that are measured. Their weights are random: only speed is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from spacy_universalner.pretrained import resolve
from spacy_universalner.universal_ner.student import save_student

# Hidden size, size between, layers, heads.
LLAMAS = {
    "llama-58m": (512, 1376, 8, 8),
    # The published UniNER-7B's own shape.
    "llama-7b": (4096, 11008, 32, 32),
    # For the runs over thousands of documents.
    "llama-tiny": (64, 128, 2, 2),
}
MODELS = ("llama-58m", "student", "llama-7b", "llama-tiny")


def make_model(name: str, folder: Path, device: str) -> Path:
    """Write a random Llama, or the embedded student, with the embedded encoder's tokenizer.

    name (str): One of `MODELS`.
    folder (Path): Where to.
    device (str): Where the random numbers are drawn.
    RETURNS (Path): The model's folder.
    """
    target = folder / name
    if target.exists():
        return target
    if name == "student":
        save_student("embedded", target)
        return target
    hidden, between, layers, heads = LLAMAS[name]
    tokenizer = AutoTokenizer.from_pretrained(resolve("embedded"))
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=between,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        initializer_range=0.1,
        eos_token_id=tokenizer.sep_token_id,  # what ends an answer for `universal_ner` too
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    # Ids beyond the tokenizer's have no characters: let none be written.
    model.lm_head.weight.data[len(tokenizer) :] = 0
    model.to(torch.bfloat16 if name == "llama-7b" else torch.float32).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
