"""Tiny Hugging Face models with their tokenizers, made in memory: two layers, random weights.

Each family stands for one that behaves differently: Llama (SentencePiece-like tokenizer that puts
a space before every run, rotary positions), GPT-2 (byte-level tokenizer, learned positions),
GPT-NeoX (byte-level, partly rotary) and BERT (WordPiece, lower-casing, no end token but [SEP]).
The initial weights are large so that greedy answers vary from prompt to prompt.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

HIDDEN = 32
POSITIONS = 1024

TEXTS = [
    "A virtual assistant answers questions from a user based on the provided text.",
    "A virtual assistant answers questions from a user based on the provided paragraph.",
    "USER: Text: The Liberal Alliance conceded shortly after two in the morning.",
    "ASSISTANT: I've read this text. USER: What describes person in the text? ASSISTANT: []",
    "What describes organization in the text? What describes location in the text?",
    '["Henrik Dalgaard", "Liberal Alliance", "Aarhus"] ["2019"] ["Folketing", "Jutland"]',
    "Barack Obama was born in Hawaii and worked in Washington for the United States.",
    "Marie Curie won the Nobel Prize in Paris in 1903 with Pierre Curie.",
]


def byte_level_tokenizer(*specials: str) -> Tokenizer:
    """Byte-level BPE as GPT-2, GPT-NeoX, RoBERTa and ModernBERT have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentencepiece_like_tokenizer() -> Tokenizer:
    """BPE over text whose spaces are "▁", with byte fallback, as Llama 1 and 2 have it."""
    trained = Tokenizer(models.BPE())
    # Words apart, or merges would cross them.
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    trained.train_from_iterator(TEXTS, trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [tuple(merge) for merge in model["merges"]],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def wordpiece_vocabulary() -> list[str]:
    """A WordPiece vocabulary: characters, their continuations, words of `TEXTS` and their ends.

    A trainer would settle ties between words as it happens, anew in each process.
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = {chr(code) for code in range(33, 127) if not chr(code).isupper()}
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {
        word
        for text in TEXTS
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }
    ends = {f"##{word[start:]}" for word in words for start in range(1, len(word))}
    return specials + sorted(letters | {f"##{letter}" for letter in letters} | words | ends)


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write model and tokenizer into one folder, as `from_pretrained` wants it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_llama(folder: Path, seed: int = 0) -> Path:
    tokenizer = LlamaTokenizerFast(tokenizer_object=sentencepiece_like_tokenizer(), legacy=True)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return save(folder, LlamaForCausalLM(config), tokenizer)


def make_gpt2(folder: Path, seed: int = 0) -> Path:
    tokenizer = GPT2TokenizerFast(tokenizer_object=byte_level_tokenizer("<|endoftext|>"))
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=HIDDEN,
        n_layer=2,
        n_head=4,
        n_positions=POSITIONS,
        initializer_range=0.3,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return save(folder, GPT2LMHeadModel(config), tokenizer)


def make_neox(folder: Path, seed: int = 0) -> Path:
    tokenizer = GPTNeoXTokenizerFast(tokenizer_object=byte_level_tokenizer("<|endoftext|>"))
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return save(folder, GPTNeoXForCausalLM(config), tokenizer)


def bert_tokenizer(folder: Path) -> BertTokenizerFast:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(wordpiece_vocabulary()) + "\n", encoding="utf8")
    return BertTokenizerFast(vocab_file=str(path), do_lower_case=True, model_max_length=POSITIONS)


def bert_config(tokenizer: BertTokenizerFast, **settings: object) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )


def make_bert(folder: Path, seed: int = 0) -> Path:
    """An encoder, as NuNER and the embedded default are."""
    tokenizer = bert_tokenizer(folder)
    torch.manual_seed(seed)
    return save(folder, BertModel(bert_config(tokenizer)), tokenizer)


def make_bert_decoder(folder: Path, seed: int = 0) -> Path:
    """A causal decoder with BERT's layers, as the embedded student is."""
    tokenizer = bert_tokenizer(folder)
    torch.manual_seed(seed)
    config = bert_config(tokenizer, is_decoder=True, tie_word_embeddings=True)
    return save(folder, BertLMHeadModel(config), tokenizer)
