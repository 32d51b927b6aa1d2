"""Everything that setup.cfg publishes is there in a fresh process, without an import."""

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
setup = ConfigParser()
setup.read(ROOT / "setup.cfg")
# Registry of spaCy or spacy-llm -> names
PUBLISHED = [
    (group.partition("_")[2], line.split("=")[0].strip())
    for group, lines in setup["options.entry_points"].items()
    for line in lines.strip().splitlines()
]


@pytest.mark.parametrize("registry,name", PUBLISHED)
def test_published_name_resolves(registry, name):
    from spacy_llm.registry import registry as registries

    assert callable(getattr(registries, registry).get(name))


def test_factories_need_no_import_of_the_package_and_no_weights(tmp_path):
    """Those of the default encoder are not there."""
    code = (
        "import spacy; nlp = spacy.blank('en'); "
        "nlp.add_pipe('universal_ner', config={'labels': ['person']}); nlp.add_pipe('nuner'); "
        "encoder = nlp.get_pipe('nuner').model.get_ref('tok2vec').shims[0]; "
        "print(nlp.pipe_names, encoder.settings.name)"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "['universal_ner', 'nuner'] numind/NuNER-v2.0"


def test_importing_the_package_alone_is_light():
    code = "import sys, spacy_universalner as s; print({'torch', 'spacy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
