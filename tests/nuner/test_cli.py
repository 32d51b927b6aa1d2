"""spaCy's own commands on `nuner`, in real files and, where it matters, in a fresh environment."""

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import spacy
import srsly
from spacy.cli import app
from spacy.cli.find_threshold import find_threshold
from spacy.tokens import DocBin, Span
from spacy.training import Example
from typer.testing import CliRunner

from tests.environments import install_wheel
from tests.nuner.test_component import SENTENCES, found

ROOT = Path(__file__).parents[2]
CONFIGS = [
    "nuner.cfg",
    "nuner_few_shot.cfg",
    "nuner_frozen.cfg",
    "nuner_shared.cfg",
    "nuner_spacy_ner.cfg",
]


def cli(*arguments: object, exit_code: int = 0) -> str:
    """Run a command of spaCy in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Annotated sentences, with a tag for each token."""
    nlp = spacy.blank("en")
    docs = []
    for text, entities in SENTENCES * 3:
        doc = nlp.make_doc(text)
        annotation = {"entities": entities, "tags": ["X"] * len(doc)}
        docs.append(Example.from_dict(doc, annotation).reference)
    path = tmp_path_factory.mktemp("data") / "sentences.spacy"
    DocBin(docs=docs).to_disk(path)
    return path


def options(data, encoder, epochs):
    """Overrides that make a config for users one for a tiny model."""
    return [
        *("--paths.train", data, "--paths.dev", data, "--paths.encoder", encoder),
        *("--training.max_epochs", epochs, "--training.eval_frequency", 15),
        *("--training.batcher.size", 4),
        *("--training.optimizer.learn_rate.initial_rate", 1e-2),
        *("--training.optimizer.learn_rate.total_steps", 3 * epochs),
        *("--training.optimizer.learn_rate.warmup_steps", epochs),
    ]


@pytest.fixture(scope="module")
def trained(data, tiny_bert, tmp_path_factory):
    """The folder of a pipeline trained by `spacy train`."""
    output = tmp_path_factory.mktemp("trained")
    arguments = options(data, tiny_bert, epochs=40)
    cli("train", ROOT / "configs" / "nuner.cfg", "--output", output, *arguments)
    return output / "model-best"


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_complete_and_valid(name):
    assert "Config is valid" in cli("debug", "config", ROOT / "configs" / name)


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_train(name, data, tiny_bert, tmp_path):
    arguments = options(data, tiny_bert, epochs=2)
    cli("train", ROOT / "configs" / name, "--output", tmp_path, *arguments)
    nlp = spacy.load(tmp_path / "model-last")
    docs = list(nlp.pipe([text for text, _ in SENTENCES] + [""]))
    assert all(doc.has_annotation("ENT_IOB") for doc in docs[:-1])


def test_evaluate(trained, data, tmp_path):
    cli("evaluate", trained, data, "--output", tmp_path / "metrics.json")
    scores = srsly.read_json(tmp_path / "metrics.json")
    assert scores["ents_f"] == scores["spans_nuner_f"] == 1.0
    assert set(scores["ents_per_type"]) == {"PERSON", "PLACE"}


def test_benchmark_speed(trained, data):
    # In batches of documents; the numbers are for people to read.
    output = cli("benchmark", "speed", trained, data, "--batches", 30, "--warmup", 1)
    assert "words/s" in output


@pytest.mark.slow
def test_several_processes_after_use_in_this_one(trained):
    """Torch has its threads by then, which a fork does not inherit."""
    code = (
        "import spacy, torch\n"
        "torch.set_num_threads(2)\n"
        f"texts = {[text for text, _ in SENTENCES]} * 20\n"
        "def run(nlp, **settings):\n"
        "    docs = nlp.pipe(texts, **settings)\n"
        "    return [[(e.start, e.end, e.label_) for e in doc.ents] for doc in docs]\n"
        "for precision in 'float32', 'int8':\n"
        "    override = {'components.nuner.model.tok2vec.precision': precision}\n"
        f"    nlp = spacy.load({str(trained)!r}, config=override)\n"
        "    assert run(nlp, batch_size=80) == run(nlp, n_process=2, batch_size=20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_several_processes_after_spacys_ner_was_used_in_this_one(tiny_bert):
    code = (
        "import spacy, torch\n"
        "from spacy.training import Example\n"
        "torch.set_num_threads(2)\n"
        f"config = spacy.util.load_config({str(ROOT / 'configs' / 'nuner_spacy_ner.cfg')!r})\n"
        f"config['paths']['encoder'] = {str(tiny_bert)!r}\n"
        "nlp = spacy.util.load_model_from_config(config)\n"
        f"texts = {[text for text, _ in SENTENCES]} * 20\n"
        f"entities = {{'entities': {SENTENCES[0][1]}}}\n"
        "nlp.initialize(lambda: [Example.from_dict(nlp.make_doc(texts[0]), entities)])\n"
        "def run(number):\n"
        "    return [doc.to_json() for doc in nlp.pipe(texts, batch_size=20, n_process=number)]\n"
        "assert run(1) == run(2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_memory_is_bounded_by_the_batch_and_not_by_the_stream(trained):
    """A document of 100,000 tokens, and five of a tenth in what the first of these needs."""
    code = (
        "import resource, spacy\n"
        "from spacy.tokens import Doc\n"
        f"nlp = spacy.load({str(trained)!r})\n"
        f"sentence = nlp.make_doc({SENTENCES[0][0]!r})\n"
        "def peak(*sizes):\n"
        "    docs = (Doc.from_docs([sentence] * (n // len(sentence))) for n in sizes)\n"
        "    for doc in nlp.pipe(docs, batch_size=1):\n"
        "        assert len(doc) > 9_990 and doc.spans['nuner']\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "print(*(peak(*sizes) for sizes in ([10_000], [10_000] * 4, [100_000])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    one, five, long = map(int, done.stdout.split())
    assert five - one < 50  # MiB
    assert long - one < 400


def test_find_threshold(trained, data):
    best, score, scores = find_threshold(
        str(trained), data, "nuner", "threshold", "ents_f", n_trials=3
    )
    assert list(scores) == [0.0, 0.5, 1.0]
    assert score == scores[best] == scores[0.0] == 1.0
    assert scores[1.0] == 0.0


def test_debug_data_and_model(data, tiny_bert):
    config = ROOT / "configs" / "nuner.cfg"
    overrides = ["--paths.train", data, "--paths.dev", data, "--paths.encoder", tiny_bert]
    # It finds so few examples to be an error.
    assert "Corpus is loadable" in cli("debug", "data", config, *overrides, exit_code=1)
    assert "nuner_encoder" in cli("debug", "model", config, "nuner", "-P0", "-P3", *overrides)


def test_labels_from_a_file(data, tiny_bert, tmp_path):
    config = ROOT / "configs" / "nuner.cfg"
    paths = ["--paths.train", data, "--paths.dev", data, "--paths.encoder", tiny_bert]
    cli("init", "labels", config, tmp_path / "labels", *paths)
    assert srsly.read_json(tmp_path / "labels" / "nuner.json") == ["PERSON", "PLACE"]
    labels = tmp_path / "labels" / "nuner.json"
    labels.write_text('["PLACE", "PERSON", "PRIZE"]')
    text = config.read_text().replace(
        "[initialize.components]\n",
        "[initialize.components]\n\n[initialize.components.nuner]\n\n"
        "[initialize.components.nuner.labels]\n"
        f'@readers = "spacy.read_labels.v1"\npath = "{labels}"\n',
    )
    (tmp_path / "config.cfg").write_text(text)
    arguments = options(data, tiny_bert, epochs=1)
    cli("train", tmp_path / "config.cfg", "--output", tmp_path / "out", *arguments)
    nlp = spacy.load(tmp_path / "out" / "model-last")
    assert nlp.get_pipe("nuner").labels == ("PLACE", "PERSON", "PRIZE")


def sourcing_config(source, **training):
    """A config that takes `nuner` over from a trained pipeline."""
    nlp = spacy.load(source)
    config = nlp.config.copy()
    config["components"]["nuner"] = {"source": str(source), "component": "nuner"}
    config["training"].update(training)
    return config


def test_training_resumes_from_a_trained_pipeline(trained, data, tmp_path):
    sourcing_config(trained).to_disk(tmp_path / "resume.cfg")
    arguments = ["--training.max_steps", 1, "--training.eval_frequency", 1]
    cli("train", tmp_path / "resume.cfg", "--output", tmp_path, *arguments)
    meta = srsly.read_json(tmp_path / "model-last" / "meta.json")
    assert meta["performance"]["ents_f"] == 1.0


def test_a_sourced_component_gets_a_new_label_as_its_warning_says(trained, data, tmp_path, recwarn):
    nlp = spacy.load(trained)
    docs = list(DocBin().from_disk(data).get_docs(nlp.vocab))
    for doc in docs:
        prizes = [Span(doc, t.i, t.i + 2, label="PRIZE") for t in doc if t.text == "Nobel"]
        doc.set_ents([*doc.ents, *prizes])
    DocBin(docs=docs).to_disk(tmp_path / "prizes.spacy")

    @spacy.registry.callbacks("tests.add_prize")
    def make_callback():
        return lambda nlp: nlp.get_pipe("nuner").add_label("PRIZE")

    def resume(name, **initialize):
        config = sourcing_config(trained)
        config["initialize"].update(initialize)
        config.to_disk(tmp_path / f"{name}.cfg")
        paths = ["--paths.train", tmp_path / "prizes.spacy", "--paths.dev", data]
        cli("train", tmp_path / f"{name}.cfg", "--output", tmp_path / name, *paths)
        return spacy.load(tmp_path / name / "model-last")(SENTENCES[1][0])

    labels = {"nuner": {"labels": ["PERSON", "PLACE", "PRIZE"]}}
    doc = resume("named", components=labels)  # has no effect on a sourced component
    assert "PRIZE" not in {ent.label_ for ent in doc.ents}
    told = [str(warning.message) for warning in recwarn if "'PRIZE'" in str(warning.message)]
    assert told
    assert all("`source`" in each and "[initialize.before_init]" in each for each in told)
    recwarn.clear()
    doc = resume("added", before_init={"@callbacks": "tests.add_prize"})
    assert ("Nobel Prize", "PRIZE") in {(ent.text, ent.label_) for ent in doc.ents}
    assert not [warning for warning in recwarn if "'PRIZE'" in str(warning.message)]


def test_frozen_components_do_not_change(trained, data, tmp_path):
    config = sourcing_config(trained, frozen_components=["nuner"], annotating_components=["nuner"])
    config["nlp"]["pipeline"] = ["nuner", "textcat"]
    config["components"]["textcat"] = {"factory": "textcat"}
    config["initialize"]["components"] = {"textcat": {"labels": ["A", "B"]}}
    config.to_disk(tmp_path / "frozen.cfg")
    nlp = spacy.load(trained)
    docs = list(nlp.pipe(text for text, _ in SENTENCES))
    for doc in docs:
        doc.cats = {"A": 1.0, "B": 0.0}
    DocBin(docs=docs).to_disk(tmp_path / "cats.spacy")
    paths = ["--paths.train", tmp_path / "cats.spacy", "--paths.dev", tmp_path / "cats.spacy"]
    cli(
        *("train", tmp_path / "frozen.cfg", "--output", tmp_path, *paths),
        *("--training.max_steps", 2, "--training.eval_frequency", 1),
    )
    after = spacy.load(tmp_path / "model-last")
    assert after.get_pipe("nuner").to_bytes() == nlp.get_pipe("nuner").to_bytes()


@pytest.mark.slow
def test_a_packaged_pipeline_runs_in_a_fresh_environment(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # spaCy falls back to the setuptools that are here
    cli("package", trained, tmp_path, "--build", "wheel", "--name", "threats")
    (wheel,) = tmp_path.rglob("en_threats-*.whl")
    with ZipFile(wheel) as files:
        (path,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = files.read(path).decode("utf8")
    assert re.search("^Requires-Dist: spacy-universalner[<>]", metadata, re.MULTILINE)
    python = install_wheel(wheel, tmp_path / "env")
    code = (
        "import en_threats; nlp = en_threats.load();"
        f"print([(e.start_char, e.end_char, e.label_) for e in nlp({SENTENCES[0][0]!r}).ents])"
    )
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.strip() == str(SENTENCES[0][1]), run.stderr


def test_prediction_is_that_of_the_trained_pipeline(trained):
    nlp = spacy.load(trained)
    assert [found(nlp(text)) for text, _ in SENTENCES] == [entities for _, entities in SENTENCES]
