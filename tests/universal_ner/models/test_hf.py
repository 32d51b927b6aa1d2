"""`spacy-universalner.HF.v1` as its users see it."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import spacy
import torch
from spacy_llm.registry import registry
from transformers import AutoModelForCausalLM, AutoTokenizer

from spacy_universalner.ty import (
    AnsweringModel,
    ModelWithIdentity,
    ModelWithOffsets,
    Piece,
    Prompt,
)
from spacy_universalner.universal_ner.models import cache, weights
from spacy_universalner.universal_ner.models.answering import (
    LOOK_AHEAD,
    UntilClosed,
    closing_ids,
)
from spacy_universalner.universal_ner.models.closing import find_close
from spacy_universalner.universal_ner.models.hf import make_hf_model
from spacy_universalner.universal_ner.models.spelling import spell
from spacy_universalner.universal_ner.models.weights import Source, fingerprint, load_model
from spacy_universalner.universal_ner.prompt import build_prompts
from spacy_universalner.universal_ner.tokenization import (
    encode_pieces,
    encode_plain,
    end_token_id,
)
from tests import tiny

DECODERS = ["tiny_llama", "tiny_gpt2", "tiny_neox", "tiny_bert_decoder"]
TYPES = ["person", "organization or party", "date"]
TEXTS = [
    "Marie Curie won the Nobel Prize in Paris in 1903.",
    "Barack Obama was born in Hawaii. " * 5,
    "",
    "Čapek 🙂 </s> [SEP] <|endoftext|>",
]


@pytest.fixture(params=DECODERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("batch_tokens", [1, 700, 16384])
def test_answers_are_those_of_generate_in_order(folder: Path, batch_tokens: int) -> None:
    model = make_hf_model(str(folder), max_new_tokens=12, batch_tokens=batch_tokens)
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = end_token_id(tokenizer)
    asked = [build_prompts(text, TYPES[: 1 + i % 3]) for i, text in enumerate(TEXTS)]
    for prompts, answers in zip(asked, model.answer(asked), strict=True):
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = torch.tensor([encode_pieces(tokenizer, prompt.pieces).ids])
            written = reference.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=0,
            )[0, ids.shape[1] :].tolist()
            complete = written[-1] == end
            text, ends = spell(tokenizer, written[:-1] if complete else written)
            close = find_close(text)
            assert answer.complete == (complete or close is not None)
            assert len(answer.ends) == len(answer.logprobs)
            if tokenizer.eos_token is not None:  # a lower-casing one spells differently
                assert answer.text == text[:close]
                assert answer.ends == tuple(
                    min(end, len(answer.text)) for end in ends[: len(answer.ends)]
                )


def test_a_list_that_closes_ends_the_answer(tiny_gpt2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    listener = UntilClosed(partial(spell, tokenizer), closing_ids(tokenizer))
    ids = [id for id, _, _ in encode_plain(tokenizer, ' ["a]", "b"] and more')]
    ended = [listener.push(id) for id in ids]
    first = ended.index(True)
    assert spell(tokenizer, ids[: first + 1])[0] == ' ["a]", "b"]'


@pytest.mark.parametrize(
    "answer",
    [
        'As [1] and [2] say: ["Paris", "Rome"]',
        "['Tom ]', 'b']",
        "[('Tom ]', 'b')]",
        "[\u201cTom ]\u201d]",
    ],
)
def test_what_the_tolerant_parser_reads_is_not_cut(answer: str) -> None:
    assert not any(find_close(answer[:end]) for end in range(len(answer)))


def test_plain_strings_are_read_as_the_tokenizer_reads_them(tiny_gpt2: Path) -> None:
    model = make_hf_model(str(tiny_gpt2), max_new_tokens=3)
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    text = "USER: hi<|endoftext|>USER:"
    assert model.count(text) == len(tokenizer(text).input_ids)
    assert model.count(Prompt([Piece(text)])) > model.count(text)
    assert [len(answers) for answers in model([[text, "a"], ["b"], []])] == [2, 1, 0]


def test_it_serves_spacy_llms_own_tasks(tiny_gpt2: Path) -> None:
    nlp = spacy.blank("en")
    config = {
        "task": {"@llm_tasks": "spacy.NER.v3", "labels": ["PERSON"]},
        "model": {
            "@llm_models": "spacy-universalner.HF.v1",
            "name": str(tiny_gpt2),
            "max_new_tokens": 4,
        },
        "save_io": True,
    }
    nlp.add_pipe("llm", config=config)
    (doc,) = nlp.pipe(["Marie Curie"])
    (response,) = doc.user_data["llm_io"]["llm"]["response"]
    assert isinstance(response, str)


def test_it_is_what_the_component_asks_for(tiny_gpt2: Path) -> None:
    model = registry.llm_models.get("spacy-universalner.HF.v1")(name=str(tiny_gpt2))
    assert isinstance(model, AnsweringModel)
    assert isinstance(model, ModelWithOffsets)
    assert isinstance(model, ModelWithIdentity)
    assert model.context_length == tiny.POSITIONS
    text = "Marie Curie 🙂"
    offsets = model.token_offsets(text)
    assert text[offsets[0][0] : offsets[-1][1]] == text
    assert model.token_offsets("") == []


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    model = make_hf_model(str(tmp_path / "missing"))
    assert list(model.answer([])) == []
    with pytest.raises(OSError, match=r"neither a local folder .* nor available"):
        list(model.answer([["a"]]))


def test_weights_are_held_once_per_process_and_read_again_when_they_change(tmp_path: Path) -> None:
    folder = tiny.make_gpt2(tmp_path / "model", seed=1)
    first, second = make_hf_model(str(folder)), make_hf_model(str(folder), max_new_tokens=7)
    assert load_model(first.source) is load_model(second.source)
    assert len(pickle.dumps(first)) < 1000
    before = first.identity
    tiny.make_gpt2(folder, seed=2)
    assert load_model(first.source) is not None
    assert first.identity != before


def test_identity_follows_the_weights_and_the_decoding(tmp_path: Path, tiny_gpt2: Path) -> None:
    copy = shutil.copytree(tiny_gpt2, tmp_path / "copy")
    model = make_hf_model(str(tiny_gpt2))
    assert make_hf_model(str(copy)).identity == model.identity
    assert make_hf_model(str(copy), batch_tokens=99).identity == model.identity
    others = [
        make_hf_model(str(tiny_gpt2), max_new_tokens=7),
        make_hf_model(str(tiny_gpt2), constrain="text"),
        make_hf_model(str(tiny_gpt2), dtype="bfloat16"),
        make_hf_model("some/model", revision="v1"),
    ]
    assert len({model.identity, *(other.identity for other in others)}) == 5
    assert "some/model@v1" in others[-1].identity


def test_identity_follows_an_adapter_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path))
    found = []
    for commit in ("1" * 40, "2" * 40):
        repository = tmp_path / "models--some--adapter"
        for name, text in (
            ("refs/main", commit),
            (f"snapshots/{commit}/adapter_config.json", "{}"),
        ):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_text(text)
        found.append(fingerprint(Source("some/model", adapter="some/adapter")))
    assert found == [f"some/model@main+some/adapter@{digit * 40}" for digit in "12"]


def test_weights_move_to_another_folder(tmp_path: Path, folder: Path) -> None:
    model = make_hf_model(str(folder), max_new_tokens=5)
    asked = [build_prompts("Marie Curie", TYPES)]
    answers, identity = list(model.answer(asked)), model.identity
    model.save_weights(tmp_path / "saved")
    moved = make_hf_model("elsewhere", max_new_tokens=5)
    moved.load_weights(tmp_path / "saved")
    assert list(moved.answer(asked)) == answers
    assert moved.identity == identity


def test_lower_precision_and_placement(tiny_llama: Path) -> None:
    asked = [build_prompts("Marie Curie", TYPES)]
    for settings in ({"dtype": "bfloat16"}, {"device_map": "cpu"}, {"device": "cpu"}):
        model = make_hf_model(str(tiny_llama), max_new_tokens=5, **settings)
        ((answers),) = model.answer(asked)
        assert all(len(answer.logprobs) == len(answer.ends) for answer in answers)
    dtypes = {load_model(make_hf_model(str(tiny_llama), dtype=d).source).dtype for d in DTYPES}
    assert dtypes == {torch.bfloat16, torch.float16, torch.float32}


DTYPES = ("bfloat16", "float16", "auto")


def test_a_prompt_that_does_not_fit_is_refused_with_both_lengths(tiny_gpt2: Path) -> None:
    model = make_hf_model(str(tiny_gpt2), max_new_tokens=24)
    long, short = build_prompts("word " * 1000, ["a"]), build_prompts("word", ["a"])
    (refused,), (answered,) = model.answer([long, short])
    length = model.count(long[0])
    assert refused.error == (
        f"The prompt has {length} tokens; with max_new_tokens = 24 for the answer it exceeds the "
        "1024 tokens that the model can take. Use a smaller window or max_new_tokens."
    )
    assert refused.text == ""
    assert answered.error is None
    with pytest.raises(ValueError, match=f"has {length} tokens"):
        list(model([long]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float8"}, "Unknown dtype 'float8'"),
        ({"constrain": "json"}, "Unknown constrain 'json'"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"batch_tokens": 0}, "batch_tokens = 0"),
        ({"device": "cpu", "device_map": "auto"}, "exclude each other"),
    ],
)
def test_settings_that_cannot_work_say_so_at_once(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_hf_model("some/model", **settings)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        make_hf_model("some/model", dtype="int4")


def test_an_encoder_is_no_causal_model(tiny_bert: Path) -> None:
    model = make_hf_model(str(tiny_bert), max_new_tokens=3)
    with pytest.raises(ValueError, match="keeps no keys and values"):
        list(model.answer([build_prompts("a", ["b"])]))


def test_reading_ahead_and_memory_stay_within_the_budget(
    tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rooms are at most half as large again as the budget, and documents do not pile up."""
    budget = 2000
    model = make_hf_model(str(tiny_gpt2), max_new_tokens=8, batch_tokens=budget)
    rooms, append = [], cache.RoomyCache.append

    def measured(self: cache.RoomyCache, layer: int, part: int, new: torch.Tensor) -> torch.Tensor:
        view = append(self, layer, part, new)
        room = self._layers[layer][part]
        rooms.append(room.shape[0] * room.shape[2])
        return view

    monkeypatch.setattr(cache.RoomyCache, "append", measured)
    taken = 0

    def stream() -> Iterator[list[Prompt]]:
        nonlocal taken
        for i in range(400):
            taken += 1
            yield build_prompts(f"Number {i} " * (1 + i % 9), TYPES)

    answers = model.answer(stream())
    next(answers)
    smallest = model.count(build_prompts("Number 1", TYPES)[0])
    assert taken <= LOOK_AHEAD * budget / smallest
    process = psutil.Process()
    for _ in zip(range(99), answers, strict=False):
        pass
    before = process.memory_info().rss
    assert sum(1 for _ in answers) == 300
    assert process.memory_info().rss - before < 20 << 20
    assert max(rooms) <= cache.GROWTH * budget
