"""How well a model in training answers: string-set F1 on conversations it has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..evaluation.metrics import Counts, Scores, count_strings, total
from ..ty import Conversation
from .models.answering import Answering
from .models.decoding import Decoder
from .models.positions import count_positions
from .parser import parse_list, parse_object
from .prompt import build_prompts, get_template
from .tokenization import end_token_id

BATCH_TOKENS = 16384


def score_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    *,
    template: str,
    max_new_tokens: int = 256,
    constrain: str = "none",
) -> Scores:
    """Ask a model the questions of conversations, one by one, and compare its answers.

    model (PreTrainedModel): In evaluation mode, on its device.
    tokenizer (PreTrainedTokenizerBase): Its tokenizer.
    conversations (Sequence[Conversation]): The questions and the right answers.
    template (str): Name of the prompt template.
    max_new_tokens (int): The longest answer, in tokens.
    constrain (str): "none", or "text" to allow only strings that stand in the text.
    RETURNS (Scores): Of the strings, as the released evaluator compares them. A question that does
        not fit into the model's context counts as unanswered.
    """
    answering = Answering(
        Decoder(model, end_ids={end_token_id(tokenizer)}, max_new_tokens=max_new_tokens),
        tokenizer,
        batch_tokens=BATCH_TOKENS,
        context_length=count_positions(model.config),
        constrain=constrain,
    )
    prompts = (
        build_prompts(
            conversation.text,
            [question.type for question in conversation.questions],
            template=template,
            dataset=conversation.dataset,
        )
        for conversation in conversations
    )
    all_types = get_template(template).all_types

    def compare() -> Iterator[Counts]:
        for conversation, answers in zip(conversations, answering.answer(prompts), strict=True):
            for number, question in enumerate(conversation.questions):
                if all_types:
                    items, _ = parse_object(answers[0].text)
                    found = [item.text for type, item in items if type == question.type]
                else:
                    found = [item.text for item in parse_list(answers[number].text)[0]]
                yield count_strings(question.answers, found)

    return total(compare()).scores()
