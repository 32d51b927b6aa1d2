"""Pre-training runs: settings, export, repeatability, kill and resume, several processes."""

import json
import shutil
from dataclasses import replace
from zipfile import ZipFile

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from transformers import AutoModel, AutoTokenizer, ElectraConfig, ElectraModel

from spacy_universalner.nuner.backbone import freeze_bottom
from spacy_universalner.nuner.pretrain import (
    CONCEPT_ENCODER,
    METRICS_FILE,
    Pretrainer,
    pretrain,
    split_passages,
)
from spacy_universalner.nuner.pretrain_settings import PretrainSettings
from spacy_universalner.nuner.probe import FewShotProbe
from spacy_universalner.ty import Mention, Passage

NAMES = {"person": ["Marie", "Pierre", "Barack"], "city": ["Paris", "Washington", "Aarhus"]}


def make_passages(number=40):
    passages = []
    for index in range(number):
        person = NAMES["person"][index % 3]
        city = NAMES["city"][index // 3 % 3]
        text = f"{person} worked in {city} {'again ' * (index % 4)}".strip()
        start = text.index(city)
        mentions = (
            Mention(0, len(person), "person"),
            Mention(start, start + len(city), "city"),
        )
        passages.append(Passage(f"p{index}", text, mentions))
    return passages


def make_settings(encoder):
    return PretrainSettings(
        encoder=str(encoder), epochs=3, batch_size=8, learning_rate=5e-3, dropout=False
    )


@pytest.fixture
def settings(tiny_bert):
    return make_settings(tiny_bert)


def weights(folder):
    return AutoModel.from_pretrained(folder, add_pooling_layer=False).state_dict()


def test_synonyms_change_the_loss(settings, tmp_path):
    """All concepts of a tiny encoder are alike: then nothing is negative for a marked token."""
    losses = [
        pretrain(make_passages(), tmp_path / f"{least}", replace(settings, mask_similar=least))
        for least in (0.0, 0.01)
    ]
    first, masked = (metrics["epochs"][0]["loss"] for metrics in losses)
    assert masked < first


def test_no_passage_to_validate_on_is_an_error_before_any_work(settings, tmp_path):
    settings = replace(settings, keep="dev_loss", dev_fraction=0.1)
    with pytest.raises(ValueError, match=r"'dev_loss' with 6 passages: dev_fraction = 0\.1"):
        pretrain(make_passages(6), tmp_path, settings)


def test_every_process_needs_a_text_of_every_batch(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 8)
    settings = replace(settings, dev_fraction=0.1)
    # 90 in twelve batches of 7 or 8, and 10 in two of 5
    message = r"There are 90 passages to train on, in batches of 7 or more: expected 8 in each"
    with pytest.raises(ValueError, match=message):
        pretrain(make_passages(100), tmp_path, settings)
    message = r"10 passages to validate on, in batches of 5 or more: .*Raise batch_size \(9\)"
    with pytest.raises(ValueError, match=message):
        pretrain(make_passages(100), tmp_path, replace(settings, batch_size=9))


def test_several_processes_have_no_common_clock(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    message = r"minutes = 5\.0 with 2 processes: .*Set minutes = 0"
    with pytest.raises(ValueError, match=message):
        pretrain(make_passages(), tmp_path, replace(settings, minutes=5.0))


class Interrupts(FewShotProbe):
    """Ends a run in its second epoch."""

    calls = 0

    def __call__(self, passages, vectors):
        self.calls += 1
        if self.calls == 2:
            raise InterruptedError
        return 0.0


def test_a_checkpoint_of_other_settings_is_put_aside(settings, tmp_path):
    run = Pretrainer(
        make_passages(),
        settings,
        tmp_path / "checkpoint.pt",
        probe=Interrupts(make_passages(), make_passages(), k=1),
    )
    with pytest.raises(InterruptedError):
        run.run()
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.warns(UserWarning, match="other settings, texts, probe or weights, and is"):
        pretrain(make_passages(), tmp_path, replace(settings, epochs=1))
    (aside,) = tmp_path.glob("checkpoint*")
    assert aside.name == f"checkpoint-{run.fingerprint[:8]}.pt" and aside.read_bytes() == kept
    # Under its own name it is gone on with.
    aside.rename(tmp_path / "checkpoint.pt")
    probe = FewShotProbe(make_passages(), make_passages(), k=1)
    resumed = pretrain(make_passages(), tmp_path, settings, probe=probe)
    assert resumed["epochs"][0] == run.history[0] and len(resumed["epochs"]) == 3


def test_a_run_begun_on_a_gpu_goes_on_without_it(settings, tmp_path):
    probe = FewShotProbe(make_passages(), make_passages(), k=1)
    whole = pretrain(make_passages(), tmp_path / "whole", settings, probe=probe)
    path = tmp_path / "resumed" / "checkpoint.pt"
    interrupts = Interrupts(make_passages(), make_passages(), k=1)
    with pytest.raises(InterruptedError):
        pretrain(make_passages(), path.parent, settings, probe=interrupts)
    # What a GPU writes differs in where each tensor has been.
    with ZipFile(path) as files:
        contents = {name: files.read(name) for name in files.namelist()}
    with ZipFile(path, "w") as files:
        for name, content in contents.items():
            cpu, gpu = (b"X" + bytes([len(tag), 0, 0, 0]) + tag for tag in (b"cpu", b"cuda:7"))
            assert not name.endswith("data.pkl") or cpu in content
            files.writestr(
                name, content.replace(cpu, gpu) if name.endswith("data.pkl") else content
            )
    resumed = pretrain(make_passages(), tmp_path / "resumed", settings, probe=probe)
    assert resumed["epochs"][1:] == whole["epochs"][1:]
    first, second = (weights(tmp_path / name) for name in ("whole", "resumed"))
    assert all(torch.equal(first[name], second[name]) for name in first)


class Remembers(GeneralTracker):
    """A logger as a user may have one."""

    name = "remembers"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.settings, self.logged = {}, []

    @property
    def tracker(self):
        return self.logged

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self.logged.append((step, values))


def test_a_logger_gets_steps_and_epochs(settings, tmp_path):
    tracker = Remembers()
    metrics = pretrain(make_passages(), tmp_path, settings, tracker=tracker)
    assert tracker.settings["epochs"] == "3"
    epochs = [(step, values) for step, values in tracker.logged if "epoch/loss" in values]
    assert [step for step, _ in epochs] == [5, 10, 15]
    assert [values["epoch/loss"] for _, values in epochs] == [
        each["loss"] for each in metrics["epochs"]
    ]
    ((step, values),) = ((s, v) for s, v in tracker.logged if "learning_rate" in v)
    assert step == 10 and 0 < values["learning_rate"] < settings.learning_rate


def test_split_holds_out_a_share_by_seed():
    passages = make_passages(40)
    train, dev = split_passages(passages, 0.1, seed=0)
    assert (len(train), len(dev)) == (36, 4)
    assert sorted(train + dev, key=passages.index) == passages
    assert split_passages(passages, 0.1, seed=0) == (train, dev)
    assert split_passages(passages, 0.1, seed=1) != (train, dev)
    assert split_passages(passages, 0.0, seed=0) == (passages, [])


@pytest.mark.parametrize(("share", "number"), [(0.0, 0), (0.5, 1), (0.99, 1)])
def test_bottom_is_a_share_of_the_layers(tiny_bert, share, number):
    encoder = AutoModel.from_pretrained(tiny_bert)
    assert freeze_bottom(encoder, share) == number
    free = [layer for layer in encoder.encoder.layer if layer.output.dense.weight.requires_grad]
    assert len(free) == 2 - number
    assert encoder.embeddings.word_embeddings.weight.requires_grad == (number == 0)


def test_a_run_ends_with_its_time(tmp_path, settings):
    short = replace(settings, minutes=1e-4)
    metrics = pretrain(make_passages(), tmp_path / "encoder", short, progress=False)
    assert (metrics["steps"], metrics["steps_planned"]) == (1, 15)
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1]
    AutoModel.from_pretrained(tmp_path / "encoder")


def test_time_enough_changes_nothing(tmp_path, settings):
    for name, minutes in (("free", 0.0), ("limited", 10.0)):
        limited = replace(settings, minutes=minutes)
        metrics = pretrain(make_passages(), tmp_path / name, limited, progress=False)
        assert (metrics["steps"], metrics["steps_planned"]) == (15, 15)
    free, limited = (weights(tmp_path / name) for name in ("free", "limited"))
    assert all(torch.equal(free[name], limited[name]) for name in free)


def test_a_run_learns_and_writes_an_encoder_that_automodel_loads(tmp_path, settings):
    # At five times this rate the second epoch has learned all there is.
    settings = replace(settings, learning_rate=1e-3)
    metrics = pretrain(make_passages(), tmp_path / "encoder", settings, progress=False)
    losses = [epoch["loss"] for epoch in metrics["epochs"]]
    dev_losses = [epoch["dev_loss"] for epoch in metrics["epochs"]]
    assert losses[2] < losses[1] < losses[0]
    assert dev_losses[2] < dev_losses[0]
    assert json.loads((tmp_path / "encoder" / METRICS_FILE).read_text()) == metrics
    assert metrics["passages"] == {"train": 36, "dev": 4}
    assert metrics["concepts"] == 2

    base, trained = weights(settings.encoder), weights(tmp_path / "encoder")
    assert base.keys() == trained.keys()
    changed = {name for name in base if not torch.equal(base[name], trained[name])}
    assert changed
    assert all(name.startswith("encoder.layer.1.") for name in changed), "the rest is frozen"
    concept = weights(tmp_path / "encoder" / CONCEPT_ENCODER)
    assert not torch.equal(
        base["embeddings.word_embeddings.weight"], concept["embeddings.word_embeddings.weight"]
    )
    AutoTokenizer.from_pretrained(tmp_path / "encoder")
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert metrics["provenance"]["data"] == {}
    for part in ("seed = 0", "learning_rate = 0.001", "36 annotated passages", f"{losses[2]:.5f}"):
        assert part in card
    assert not list((tmp_path / "encoder").glob("checkpoint*"))


def test_the_precision_of_an_earlier_run_in_the_process_does_not_matter(tmp_path, settings):
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(mixed_precision="bf16")
    metrics = pretrain(make_passages(8), tmp_path / "encoder", settings, progress=False)
    assert metrics["settings"]["precision"] == "float32"


def test_the_same_seed_gives_the_same_weights(tmp_path, settings):
    settings = replace(settings, dropout=True, epochs=1)
    passages = make_passages()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain(passages, tmp_path / name, replace(settings, seed=seed), progress=False)
    first, second, other = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_stored_states_change_nothing(tmp_path, settings):
    passages = make_passages()
    settings = replace(settings, concept_frozen=0.5, epochs=2)
    plain = pretrain(passages, tmp_path / "plain", settings, progress=False)
    cached = pretrain(
        passages, tmp_path / "cached", replace(settings, cache_frozen=True), progress=False
    )
    for one, other in zip(plain["epochs"], cached["epochs"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    first, second = weights(tmp_path / "plain"), weights(tmp_path / "cached")
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-3)


def test_states_that_cannot_be_stored_are_computed_anew(tmp_path, settings, tiny_bert):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    config = ElectraConfig(vocab_size=len(tokenizer), embedding_size=16, **sizes)
    torch.manual_seed(0)
    for part in (ElectraModel(config), tokenizer):
        part.save_pretrained(tmp_path / "electra")
    settings = replace(settings, encoder=str(tmp_path / "electra"), epochs=1)
    plain = pretrain(make_passages(), tmp_path / "plain", settings, progress=False)
    with pytest.warns(UserWarning, match="cache_frozen = true has no effect: the layers of Elec"):
        cached = pretrain(
            make_passages(), tmp_path / "cached", replace(settings, cache_frozen=True)
        )
    assert plain["epochs"] == cached["epochs"]


def test_a_run_goes_on_only_with_what_it_was_begun_with(tmp_path, settings, tiny_bert):
    shutil.copytree(tiny_bert, tmp_path / "encoder")
    settings = replace(settings, encoder=str(tmp_path / "encoder"))

    def begin(settings=settings, **options):
        return Pretrainer(make_passages(), settings, tmp_path / "c.pt", **options).fingerprint

    first = begin()
    assert begin() == first
    probes = [FewShotProbe(make_passages(), make_passages(4), k=k) for k in (1, 2)]
    assert len({first, *(begin(probe=probe) for probe in probes)}) == 3
    encoder = AutoModel.from_pretrained(tmp_path / "encoder", add_pooling_layer=False)
    encoder.encoder.layer[0].output.dense.bias.data += 1
    encoder.save_pretrained(tmp_path / "encoder")
    assert begin() != first


class ScriptedProbe(FewShotProbe):
    """Gives the scores that it is told to, and remembers what it was shown."""

    scores = (0.1, 0.9, 0.2)

    def __call__(self, passages, vectors):
        self.seen = [*getattr(self, "seen", []), vectors]
        return self.scores[len(self.seen) - 1]


@pytest.mark.parametrize("cache", [False, True])
def test_the_best_epoch_is_kept(tmp_path, settings, cache):
    passages = make_passages()
    probe = ScriptedProbe(passages[:20], passages[20:24], k=1)
    settings = replace(settings, keep="probe", cache_frozen=cache)
    metrics = pretrain(passages, tmp_path / "encoder", settings, probe=probe, progress=False)
    assert [epoch["probe"] for epoch in metrics["epochs"]] == [0.1, 0.9, 0.2]
    assert metrics["kept_epoch"] == 2
    encoder = AutoModel.from_pretrained(tmp_path / "encoder", add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    for index in (0, 23):
        inputs = tokenizer(probe.passages[index].text, return_tensors="pt")
        states = encoder(**inputs).last_hidden_state[0]
        torch.testing.assert_close(probe.seen[1][index], states, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(probe.seen[2][index], states, rtol=1e-3, atol=1e-3)


def test_the_epoch_with_the_lowest_dev_loss_is_kept(tmp_path, settings):
    passages = make_passages()
    probe = ScriptedProbe(passages[:20], passages[20:24], k=1)
    settings = replace(settings, keep="dev_loss")
    metrics = pretrain(passages, tmp_path / "encoder", settings, probe=probe, progress=False)
    losses = [epoch["dev_loss"] for epoch in metrics["epochs"]]
    kept = metrics["kept_epoch"] - 1
    assert losses[kept] == min(losses) < losses[-1]
    encoder = AutoModel.from_pretrained(tmp_path / "encoder", add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    inputs = tokenizer(passages[0].text, return_tensors="pt")
    states = encoder(**inputs).last_hidden_state[0]
    torch.testing.assert_close(probe.seen[kept][0], states, rtol=1e-4, atol=1e-4)


def test_a_real_probe_scores_every_epoch(tmp_path, settings):
    passages = make_passages()
    probe = FewShotProbe(passages[:20], passages[20:], k=2)
    metrics = pretrain(passages, tmp_path / "encoder", settings, probe=probe, progress=False)
    assert all(0.0 < epoch["probe"] <= 1.0 for epoch in metrics["epochs"])


def test_keeping_the_best_needs_something_to_judge_by(tmp_path, settings):
    with pytest.raises(ValueError, match="keep = 'probe' needs passages to probe on"):
        pretrain(make_passages(), tmp_path, replace(settings, keep="probe"), progress=False)
    with pytest.raises(ValueError, match=r"keep = 'dev_loss' is not possible: expected 'last'"):
        replace(settings, keep="dev_loss", dev_fraction=0.0)
