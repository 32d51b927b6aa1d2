"""The shared-trunk decoder writes what one `generate` per prompt writes, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging import version
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma3TextConfig,
    GPTBigCodeConfig,
    GPTNeoConfig,
    MambaConfig,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
)

from spacy_universalner.universal_ner.models.batching import Budget, Job, batches, split
from spacy_universalner.universal_ner.models.cache import RoomyCache
from spacy_universalner.universal_ner.models.decoding import AnyAnswer, Decoder
from spacy_universalner.universal_ner.models.positions import count_positions
from spacy_universalner.universal_ner.models.trees import Tree

FAMILIES = ["tiny_llama", "tiny_gpt2", "tiny_neox", "tiny_bert_decoder"]
# Every eleventh token ends an answer, so that answers end early, late and not at all.
ENDS = frozenset(range(0, 300, 11))
NEW = 14
LONG = [[(5 * i + j) % 290 + 1 for i in range(30)] for j in range(3)]

tokens = st.lists(st.integers(1, 299), min_size=1, max_size=8)
documents = st.lists(
    st.tuples(st.lists(st.integers(1, 299), max_size=20), st.lists(tokens, min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


@lru_cache
def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def generate(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """One prompt's answer by the library's own greedy search."""
    answer = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=sorted(ENDS),
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    return answer[:-1] if answer[-1] in ENDS else answer


def decode(decoder: Decoder, asked: Sequence[Sequence[list[int]]]) -> list[list[list[int]]]:
    """All in one batch, a tree a document where the model can tell branches apart."""
    if not decoder.can_share(64):
        prompts = [prompt for document in asked for prompt in document]
        trees = [Tree.plant([prompt], share=False) for prompt in prompts]
        answers = iter(decoder.decode(trees, [[AnyAnswer()]] * len(trees)))
        return [[next(answers)[0].ids for _ in document] for document in asked]
    trees = [Tree.plant(prompts) for prompts in asked]
    listeners = [[AnyAnswer() for _ in prompts] for prompts in asked]
    return [[answer.ids for answer in answers] for answers in decoder.decode(trees, listeners)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_beginning_is_shared(family: str, request: pytest.FixtureRequest) -> None:
    if family == "tiny_gpt2" and version.parse(transformers.__version__) < version.parse("4.52"):
        pytest.skip("GPT-2 has learned to take a mask with branches in transformers 4.52")
    model = load(request.getfixturevalue(family))
    assert Decoder(model, end_ids=ENDS, max_new_tokens=NEW).can_share(10**6)


@pytest.mark.parametrize("family", FAMILIES)
@given(drawn=documents)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_answers_are_those_of_one_generate_per_prompt(
    family: str, request: pytest.FixtureRequest, drawn: list[tuple[list[int], list[list[int]]]]
) -> None:
    model = load(request.getfixturevalue(family))
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    asked = [[trunk + rest for rest in rests] for trunk, rests in drawn]
    expected = [[generate(model, prompt) for prompt in prompts] for prompts in asked]
    assert decode(decoder, asked) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_large_batch_shrinks_as_answers_end(family: str, request: pytest.FixtureRequest) -> None:
    """Rows of very different lengths, so that finished branches leave the batch several times."""
    model = load(request.getfixturevalue(family))
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    asked = [
        [[(7 * row + i) % 290 + 1 for i in range(3 + 5 * row)] + [type + 1] for type in range(6)]
        for row in range(8)
    ]
    answers = decode(decoder, asked)
    assert answers == [[generate(model, prompt) for prompt in prompts] for prompts in asked]
    lengths = {len(answer) for found in answers for answer in found}
    assert len(lengths) > 3, "else nothing left early"


def test_log_probabilities_are_those_of_the_model(tiny_llama: Path) -> None:
    model = load(tiny_llama)
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    prompt = [3, 4, 5, 6, 7]
    ((answer,),) = decoder.decode([Tree.plant([prompt])], [[AnyAnswer()]])
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer.ids])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) - 1 + len(answer.ids))
    expected = [float(logits[i, id]) for i, id in zip(places, answer.ids, strict=True)]
    assert answer.logprobs == pytest.approx(expected, abs=1e-4)


class Alternating:
    """Allows two tokens in turn and is content with five."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def allowed(self) -> list[int]:
        return [20 + len(self.taken) % 2]

    def push(self, token: int) -> bool:
        self.taken.append(token)
        return len(self.taken) == 5


def test_a_listener_restricts_and_ends_its_own_branch_only(tiny_neox: Path) -> None:
    model = load(tiny_neox)
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    prompts = [[3, 4, 5, 6], [3, 4, 5, 7]]
    ((restricted, free),) = decoder.decode([Tree.plant(prompts)], [[Alternating(), AnyAnswer()]])
    assert restricted.ids == [20, 21, 20, 21, 20]
    assert restricted.complete
    assert free.ids == generate(model, prompts[1])
    assert free.complete == (len(free.ids) < NEW)


def test_a_model_that_cannot_keep_branches_apart_answers_all_the_same() -> None:
    """Bloom derives positions from a mask over columns, which knows no branches."""
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    model = BloomForCausalLM(config).eval()
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    assert not decoder.can_share(1)
    prompts = [[3, 4, 5, 6, 8], [3, 4, 9], [3, 4, 5, 7]]
    assert decode(decoder, [prompts]) == [[generate(model, prompt) for prompt in prompts]]


def test_a_sliding_attention_window_is_heeded() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=24,
        initializer_range=0.3,
    )
    model = MistralForCausalLM(config).eval()
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    assert decoder.can_share(24)
    assert not decoder.can_share(25)
    assert decode(decoder, [LONG]) == [[generate(model, prompt) for prompt in LONG]]


SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "config",
    [
        Gemma3TextConfig(
            **SIZES, intermediate_size=64, num_key_value_heads=2, head_dim=8, initializer_range=0.3
        ),
        OPTConfig(**SIZES, ffn_dim=64, max_position_embeddings=128, init_std=0.3),
    ],
    ids=lambda config: config.model_type,
)
def test_models_that_are_their_own_base_or_go_around_it(config: PretrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    assert decoder.can_share(64)
    asked = [[[3, 4, 5, 6, 8], [3, 4, 9]], [[7, 8, 9, 10, 11, 12]]]
    expected = [[generate(model, prompt) for prompt in prompts] for prompts in asked]
    assert decode(decoder, asked) == expected


def test_attention_to_the_last_columns_takes_no_branches() -> None:
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=300,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
        initializer_range=0.3,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    assert not decoder.can_share(1)
    assert decode(decoder, [LONG]) == [[generate(model, prompt) for prompt in LONG]]


@pytest.mark.parametrize(
    "config, message",
    [
        (GPTBigCodeConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=4), "a form of its own"),
        (MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2), "no causal decoder"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_models_without_keys_and_values_say_so(config: PretrainedConfig, message: str) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    with pytest.raises(ValueError, match=message):
        decode(decoder, [[[3, 4, 5]]])


def test_positions_that_count_from_the_padding_token() -> None:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=66,
        is_decoder=True,
        initializer_range=0.3,
    )
    assert count_positions(config) == 64
    model = RobertaForCausalLM(config).eval()
    decoder = Decoder(model, end_ids=ENDS, max_new_tokens=NEW)
    assert decoder.can_share(64)
    asked = [[[3, 4, 5, 6, 8], [3, 4, 9]], [list(range(10, 60)), [*range(10, 59), 2]]]

    def reread(prompt: list[int]) -> list[int]:
        """The whole text anew for each token: `generate` counts RoBERTa's positions from 0."""
        answer: list[int] = []
        while len(answer) < NEW:
            with torch.inference_mode():
                token = int(model(torch.tensor([prompt + answer])).logits[0, -1].argmax())
            if token in ENDS:
                break
            answer.append(token)
        return answer

    assert decode(decoder, asked) == [[reread(prompt) for prompt in prompts] for prompts in asked]


def test_a_tree_shares_the_longest_common_beginning() -> None:
    assert Tree.plant([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6]]) == Tree(
        [1, 2], [[3, 4], [5], [3, 6]]
    )
    assert Tree.plant([[1, 2, 3]]) == Tree([1, 2], [[3]])
    # Equal prompts, and one that another starts with, keep a token of their own.
    assert Tree.plant([[1, 2], [1, 2], [1, 2, 3]]) == Tree([1], [[2], [2], [2, 3]])
    assert Tree.plant([[1, 2], [1, 3]], share=False) == Tree([], [[1, 2], [1, 3]])


@given(
    sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 12)), max_size=12),
    limit=st.integers(1, 2000),
)
def test_batches_hold_every_prompt_once_within_the_budget(
    sizes: list[tuple[int, int]], limit: int
) -> None:
    budget = Budget(limit, max_new_tokens=10)
    jobs: list[Job] = []
    for document, (length, types) in enumerate(sizes):
        prompts = {type: [1] * length + [type + 2] for type in range(types)}
        jobs += split(document, prompts, budget, share=True)
    planned = list(batches(jobs, budget))
    for batch in planned:
        assert budget.cost(batch) <= limit or (len(batch) == 1 and len(batch[0].members) == 1)
    held = [(job.document, member) for batch in planned for job in batch for member in job.members]
    assert sorted(held) == [
        (i, type) for i, (_, types) in enumerate(sizes) for type in range(types)
    ]


def test_the_cache_appends_in_place_and_gathers() -> None:
    keys = torch.arange(2 * 1 * 3 * 2, dtype=torch.float32).reshape(2, 1, 3, 2)
    cache = RoomyCache([(keys, -keys)])
    assert cache.get_seq_length() == 3
    new = torch.full((2, 1, 1, 2), 100.0)
    known, _ = cache.update(new, -new, 0)
    assert torch.equal(known, torch.cat([keys, new], 2))
    cache.advance(1)
    # What a model does that concatenates itself.
    old, _ = cache[0]
    again = torch.cat([old, new], dim=2)
    assert torch.equal(again, torch.cat([keys, new, new], 2))
    assert again.untyped_storage().data_ptr() == cache[0][0].untyped_storage().data_ptr()
    cache.gather(torch.tensor([1]), torch.tensor([[3, 0]]))
    assert cache.get_seq_length() == 2
    assert torch.equal(cache[0][0], torch.stack([new[1, :, 0], keys[1, :, 0]], 1)[None])
