"""The documentation names every setting, and no other."""

import inspect
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import spacy
from spacy_llm.registry import registry
from weasel.util import load_project_config
from weasel.util.config import parse_config_overrides

from spacy_universalner.nuner.classifier import build_nuner_token_classifier_v1
from spacy_universalner.nuner.encoder import build_nuner_encoder_v1
from spacy_universalner.nuner.pretrain_settings import PretrainSettings

DOCS = Path(__file__).parent.parent / "docs"


def keys_of_table(page: str, heading: str) -> list[str]:
    """First column of the table under a heading that starts so; a row may have several keys."""
    _, found, section = (DOCS / page).read_text(encoding="utf8").partition(f"\n## {heading}")
    assert found, heading
    section = section.partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, flags=re.MULTILINE)
    return [key for row in rows for key in re.findall(r"\w+", row)]


@pytest.mark.parametrize(
    "factory,page", [("universal_ner", "universal_ner.md"), ("nuner", "nuner.md")]
)
def test_every_setting_of_a_factory_is_documented(factory, page):
    settings = spacy.blank("en").get_factory_meta(factory).default_config
    assert sorted(keys_of_table(page, "The component")) == sorted(settings)


@pytest.mark.parametrize("name", ["HF", "OpenAI"])
def test_every_setting_of_a_model_is_documented(name):
    name = f"spacy-universalner.{name}.v1"
    settings = inspect.signature(registry.llm_models.get(name)).parameters
    assert keys_of_table("universal_ner.md", f"`{name}`") == list(settings)


@pytest.mark.parametrize("build", [build_nuner_token_classifier_v1, build_nuner_encoder_v1])
def test_every_setting_of_an_architecture_is_documented(build):
    name = build.__name__.removeprefix("build_nuner_").removesuffix("_v1")
    heading = {
        "encoder": "`spacy-universalner.NuNEREncoder.v1`",
        "token_classifier": "`spacy-universalner.NuNERTokenClassifier.v1`",
    }[name]
    assert keys_of_table("nuner.md", heading) == list(inspect.signature(build).parameters)


def test_every_setting_of_pretraining_is_documented():
    settings = [field.name for field in fields(PretrainSettings)]
    assert sorted(keys_of_table("nuner.md", "Pre-training")) == sorted(settings)


def test_documented_variables_of_the_project_can_be_set_so():
    root = DOCS.parent
    project = load_project_config(root)
    commands = {each["name"] for each in project["commands"]} | set(project["workflows"])
    pages = [*DOCS.glob("*.md"), root / "README.md", root / "project.yml"]
    found = []
    for page in pages:
        text = page.read_text("utf8")
        for option in re.findall(r"--vars\.\w+ (?:\"[^\"]*\"|'[^']*'|[^\s`]+)", text):
            name, value = shlex.split(option)
            values = parse_config_overrides([name, value])
            ((key, given),) = values.items()
            assert key == name[2:]
            number = isinstance(given, float)
            assert given == pytest.approx(float(value)) if number else str(given) == value
            assert name.removeprefix("--vars.") in project["vars"]
            found.append(option)
        names = re.findall(r"weasel run ([\w-]+)", text)
        assert set(names) <= commands | {"name"}, page
    assert len(found) > 8
