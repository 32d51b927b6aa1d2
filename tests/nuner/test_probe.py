"""The frozen few-shot probe."""

import pytest
import torch

from spacy_universalner.nuner.batches import TokenizedPassage
from spacy_universalner.nuner.probe import FewShotProbe, token_labels, train_head
from spacy_universalner.ty import Mention, Passage

LABELS = ["", "person", "city"]


def make_case(number, seed):
    """Passages of four tokens: nothing, a person, nothing, a city; and vectors that say so."""
    torch.manual_seed(seed)
    mentions = (Mention(1, 2, "person"), Mention(3, 4, "city"))
    passages = [Passage(f"p{index}", "abcd", mentions) for index in range(number)]
    tokenized = [TokenizedPassage([5, 6, 7, 8], {"city": [3], "person": [1]})] * number
    classes = torch.tensor([0, 1, 0, 2])
    vectors = [torch.eye(3)[classes] * 4 + torch.randn(4, 3) * 0.1 for _ in range(number)]
    return passages, tokenized, vectors


def test_tokens_have_one_type_or_none():
    passage = TokenizedPassage([1, 2, 3, 4], {"city": [1, 2], "capital": [1]})
    assert token_labels(passage) == ["", "capital", "city", ""]


def test_head_is_fitted_to_features_as_they_came():
    torch.manual_seed(0)
    features = torch.randn(60, 2) * torch.tensor([0.1, 50.0]) + torch.tensor([7.0, -300.0])
    targets = (features[:, 1] > -300).long()
    head = train_head(features, targets, 2)
    assert (head(features).argmax(-1) == targets).float().mean() > 0.95
    again = train_head(features, targets, 2)
    assert torch.equal(head.weight, again.weight)


def test_vectors_that_tell_types_apart_score_one_and_others_do_not():
    passages, tokenized, vectors = make_case(20, seed=0)
    probe = FewShotProbe(passages[:12], passages[12:], k=2, samples=2)
    assert [len(sample) for sample in probe.samples] == [2, 2]
    assert probe(tokenized, vectors) == 1.0
    noise = [torch.randn(4, 3) for _ in passages]
    assert probe(tokenized, noise) < 0.6
    assert probe(tokenized, noise) == probe(tokenized, noise)


def test_too_few_examples_are_refused():
    passages, _, _ = make_case(3, seed=0)
    with pytest.raises(ValueError, match="person"):
        FewShotProbe(passages[:2], passages[2:], k=3)
