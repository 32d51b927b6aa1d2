"""Pieces of a conversation to token ids: what the user brought never becomes a special token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from weakref import WeakKeyDictionary

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.ty import Piece, Prompt


@dataclass(frozen=True)
class Encoded:
    """A tokenised prompt or conversation.

    ids (list[int]): Token ids.
    targets (list[bool]): For each token, whether the training loss is taken on it.
    data (list[bool]): For each token, whether it spells what the user brought: text, type, answer.
    """

    ids: list[int]
    targets: list[bool]
    data: list[bool]


@dataclass(frozen=True)
class Conventions:
    """What a tokenizer does to every text, found out by asking it.

    leading (list[int]): The tokens it starts a text with, such as BOS or [CLS].
    specials (frozenset[int]): The tokens that plain characters must never become. The unknown
        token is not one of them: it is what unknown characters become.
    brings_space (bool): Whether it puts a space before what it is given (SentencePiece).
    """

    leading: list[int]
    specials: frozenset[int]
    brings_space: bool


_CONVENTIONS: WeakKeyDictionary[PreTrainedTokenizerBase, Conventions] = WeakKeyDictionary()


def encode_pieces(tokenizer: PreTrainedTokenizerBase, pieces: Iterable[Piece]) -> Encoded:
    """Tokenise a prompt or conversation.

    What stands between two "end" or "turn" pieces is tokenised as one run in which the written
    form of a special token is just characters. An "end" piece becomes the end token. The text
    starts as the tokenizer starts it (BOS, [CLS]); nothing is added after it.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    pieces (Iterable[Piece]): The pieces.
    RETURNS (Encoded): A token is a target if any of its characters stand in a target piece, and
        data if any stand in a data piece.
    RAISES (ValueError): The tokenizer is not a fast one, or has no end token.
    """
    conventions = get_conventions(tokenizer)
    ids = list(conventions.leading)
    targets, data = [False] * len(ids), [False] * len(ids)
    after_turn = False
    for kind, group in groupby(pieces, key=_boundary):
        if kind == "end":
            for piece in group:
                ids.append(end_token_id(tokenizer))
                targets.append(piece.target)
                data.append(False)
        elif kind == "turn":
            after_turn = True
            continue
        else:
            run = list(group)
            text = "".join(piece.text for piece in run)
            start = int(after_turn and conventions.brings_space and text.startswith(" "))
            target_spans = _spans(run, [piece.target for piece in run])
            data_spans = _spans(run, [piece.kind == "data" for piece in run])
            for token, first, last in encode_plain(tokenizer, text, start):
                ids.append(token)
                targets.append(any(first < end and last > begin for begin, end in target_spans))
                data.append(any(first < end and last > begin for begin, end in data_spans))
        after_turn = False
    return Encoded(ids, targets, data)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Tokenise a prompt as a model is asked it.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    prompt (str): A `Prompt` is tokenised by its pieces. Any other string is read as the tokenizer
        reads it, special tokens and all, but nothing is added after it.
    RETURNS (list[int]): Token ids.
    """
    if isinstance(prompt, Prompt):
        return encode_pieces(tokenizer, prompt.pieces).ids
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    return get_conventions(tokenizer).leading + ids


def encode_plain(
    tokenizer: PreTrainedTokenizerBase, text: str, start: int = 0
) -> Iterator[tuple[int, int, int]]:
    """Tokenise characters as characters, whatever they spell.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    text (str): The characters.
    start (int): Where to begin.
    YIELDS (tuple[int, int, int]): Token id, and the offsets in `text` of its first character and
        after its last.
    """
    specials = get_conventions(tokenizer).specials
    while start < len(text):
        encoding = tokenizer(
            text[start:],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        offsets = encoding["offset_mapping"]
        tokens = [
            (token, start + first, start + last)
            for token, (first, last) in zip(encoding["input_ids"], offsets, strict=True)
        ]
        cuts = (
            first + 1 for token, first, last in tokens if token in specials and last > first + 1
        )
        cut = next(cuts, None)
        if cut is None:
            yield from tokens
            return
        # A vocabulary that knows the special token as an ordinary word (Unigram) still finds it:
        # cut the text inside of it, so that neither half spells it.
        yield from encode_plain(tokenizer, text[:cut], start)
        start = cut


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an assistant turn: EOS, or [SEP] where there is none.

    tokenizer (PreTrainedTokenizerBase): The tokenizer.
    RETURNS (int): Its id.
    RAISES (ValueError): The tokenizer has neither.
    """
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise ValueError(
        f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has neither an EOS "
        "nor a SEP token, so an answer could never end. Set its `eos_token`."
    )


def get_conventions(tokenizer: PreTrainedTokenizerBase) -> Conventions:
    """Find out, once for each tokenizer, what it does to every text.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    RETURNS (Conventions): What it does.
    RAISES (ValueError): It is not a fast tokenizer.
    """
    if tokenizer not in _CONVENTIONS:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not tell where its tokens stand in the text. "
                "Save the model with its fast tokenizer (tokenizer.json)."
            )
        probe = tokenizer("x", add_special_tokens=False)["input_ids"]
        wrapped = tokenizer("x")["input_ids"]
        added = (id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
        specials = {*tokenizer.all_special_ids, *added}
        # GPT-2's unknown token is also its end token: then it is as special as any.
        if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.sep_token_id):
            specials.discard(tokenizer.unk_token_id)
        _CONVENTIONS[tokenizer] = Conventions(
            leading=wrapped[: wrapped.index(probe[0])],
            specials=frozenset(specials),
            brings_space=tokenizer.convert_ids_to_tokens(probe[0]).startswith("▁"),
        )
    return _CONVENTIONS[tokenizer]


def _boundary(piece: Piece) -> str:
    return piece.kind if piece.kind in ("end", "turn") else "run"


def _spans(run: Iterable[Piece], wanted: Iterable[bool]) -> list[tuple[int, int]]:
    spans, offset = [], 0
    for piece, is_wanted in zip(run, wanted, strict=True):
        if is_wanted:
            spans.append((offset, offset + len(piece.text)))
        offset += len(piece.text)
    return spans
