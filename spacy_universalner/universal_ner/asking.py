"""Putting prompts to a language model, whatever kind it is, and keeping its answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from spacy_universalner.data.store import ResponseStore
from spacy_universalner.ty import Answer, AnsweringModel, LanguageModel, Prompt


def ask(model: LanguageModel, groups: Sequence[Sequence[Prompt]]) -> Iterator[list[Answer]]:
    """Ask a model.

    model (LanguageModel): An `AnsweringModel`, which answers one group after the other, or any
        function with spacy-llm's signature, which may take them all at once.
    groups (Sequence[Sequence[Prompt]]): The prompts about each text.
    YIELDS (list[Answer]): The answers to the prompts of a group, in order.
    RAISES (ValueError): The model leaves prompts without an answer.
    """
    replies: Iterable[list[Answer]]
    if isinstance(model, AnsweringModel):
        replies = model.answer(groups)
    else:
        responses = model(groups) if groups else ()
        replies = ([Answer.of(text) for text in group] for group in responses)
    answered = 0
    for prompts, answers in zip(groups, replies, strict=False):
        if len(answers) != len(prompts):
            raise ValueError(
                f"{type(model).__name__} gave {len(answers)} answers to {len(prompts)} prompts "
                "about a text. A model must answer each prompt."
            )
        answered += 1
        yield answers
    if answered < len(groups):
        raise ValueError(
            f"{type(model).__name__} answered about {answered} of {len(groups)} texts. A model "
            "must answer about each text."
        )


def ask_or_recall(
    model: LanguageModel, groups: Sequence[Sequence[Prompt]], store: ResponseStore, identity: str
) -> Iterator[list[Answer]]:
    """Ask a model what it was not asked before.

    model (LanguageModel): See `ask`.
    groups (Sequence[Sequence[Prompt]]): The prompts about each text.
    store (ResponseStore): Holds the answers that are known; takes up each new one as it arrives,
        unless it is an error.
    identity (str): Names the model and its decoding.
    YIELDS (list[Answer]): The answers to the prompts of a group, in order.
    """
    # An annotation run may keep the same answers in the same file, as plain text.
    identity = f"{identity}, with its tokens"
    keys = [[store.key(identity, prompt) for prompt in prompts] for prompts in groups]
    known = [[store.get(key) for key in group] for group in keys]
    missing = [
        [prompt for prompt, value in zip(prompts, values, strict=True) if value is None]
        for prompts, values in zip(groups, known, strict=True)
    ]
    replies = ask(model, [prompts for prompts in missing if prompts])
    for group, values in zip(keys, known, strict=True):
        fresh = iter(next(replies)) if None in values else iter(())
        answers = []
        for key, value in zip(group, values, strict=True):
            answer = next(fresh) if value is None else _load(value)
            if value is None and answer.error is None:
                store.put(key, json.dumps(asdict(answer)))
            answers.append(answer)
        yield answers


def _load(value: str) -> Answer:
    fields = json.loads(value)
    return Answer(
        **{**fields, "ends": tuple(fields["ends"]), "logprobs": tuple(fields["logprobs"])}
    )
