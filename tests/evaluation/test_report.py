"""The report: complete, self-contained, safe, and clear about what it lacks."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from weasel.util import load_project_config

from scripts.evaluate_nuner import summarize
from spacy_universalner.evaluation.report import (
    STAGES,
    duration,
    group_stages,
    read_run,
    write_report,
)
from tests.evaluation.project import run
from tests.evaluation.runs import add_logs, make_run, write

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects text and what would be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    metrics, training = make_run(folder)
    add_logs(metrics, training)
    write_report(read_run(metrics, training), folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "index.html").read_text("utf8"))


def test_the_page_is_well_formed_and_fetches_nothing(report: Path, page: Page):
    assert page.open == []
    assert all(target.startswith("#") for target in page.fetched)
    html = (report / "index.html").read_text("utf8")
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids)) > 0
    assert set(re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", html)) != set()
    for names in re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", html):
        assert "".join(names) in page.ids


def test_texts_types_and_answers_do_not_become_markup(page: Page):
    assert "script" not in page.tags
    assert "Ada <b>Lovelace</b>" in page.text
    assert "<script>alert(1)" in page.text


def test_the_comparison_stands_in_page_and_markdown(report: Path, page: Page):
    markdown = (report / "report.md").read_text("utf8")
    assert "| k = 8 (10 sentences) | NuNER | 2 | 41.0 | 41.0 | **41.0** ± 1.4 |" in markdown
    assert "| all (90 sentences) | Base encoder | 1 | 60.0 | 60.0 | **60.0** |" in markdown
    assert (
        "gold test set, zero-shot | Tuned student | 12 | 24 | 80.0 (80.0\N{EN DASH}80.0)"
        in markdown
    )
    assert "k = 8 (10 sentences) NuNER 2 41.0 41.0 41.0 ± 1.4 +10.0" in page.text
    assert "all (90 sentences) NuNER 1 58.0 58.0 58.0 -2.0" in page.text
    assert "PERSON" in page.text
    assert "wrong boundaries" in page.text


def test_the_base_stands_before_nuner_at_every_size(report: Path):
    lines = (report / "report.md").read_text("utf8").splitlines()
    rows = [line.split(" | ")[:2] for line in lines if line.startswith(("| k = ", "| all ("))]
    assert rows == [
        ["| k = 8 (10 sentences)", "Base encoder"],
        ["| k = 8 (10 sentences)", "NuNER"],
        ["| all (90 sentences)", "Base encoder"],
        ["| all (90 sentences)", "NuNER"],
    ]


def test_every_section_is_there(page: Page):
    for heading in (
        "What was gained",
        "How it was learnt",
        "Type by type",
        "Ten sentences of the test set",
        "What the annotation found",
        "What ran, and how long",
        "How to read these figures",
        "To repeat it",
    ):
        assert heading in page.text
    assert page.tags.count("svg") == 5
    assert page.tags.count("article") == 10
    assert "6 min 49 s" in page.text  # 9 s and 400 s


def test_the_stages_are_those_of_the_whole_workflow():
    project = load_project_config(Path(__file__).parents[2])
    commands = {each["name"]: each["script"] for each in project["commands"]}
    lines = [line for name in project["workflows"]["all"] for line in commands[name]]
    named = [match[1] for line in lines if (match := re.search(r"scripts\.stage ([\w-]+)", line))]
    assert tuple(dict.fromkeys(named)) == STAGES


def test_predictions_that_are_not_gold_are_crossed(page: Page):
    assert "PERSON ✗" in page.text
    assert "A<i>B ✗" in page.text


def test_markdown_shows_figures_that_exist(report: Path):
    markdown = (report / "report.md").read_text("utf8")
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", markdown)
    assert "figures/learning_curve.svg" in linked
    for target in linked:
        svg = (report / target).read_text("utf8")
        assert svg.startswith("<svg ")
        assert "var(--" not in svg


def test_the_same_run_gives_the_same_bytes(tmp_path: Path):
    metrics, training = make_run(tmp_path)
    for name in ("one", "two"):
        write_report(read_run(metrics, training), tmp_path / name)
    assert (tmp_path / "one/index.html").read_bytes() == (tmp_path / "two/index.html").read_bytes()


def test_logs_may_be_missing(tmp_path: Path):
    write_report(read_run(*make_run(tmp_path)), tmp_path / "report")
    page = Page((tmp_path / "report/index.html").read_text("utf8"))
    assert page.tags.count("svg") == 3
    assert "What ran, and how long" not in page.text


def test_a_text_may_hold_what_python_takes_for_the_end_of_a_line(tmp_path: Path):
    metrics, training = make_run(tmp_path)
    path = metrics / "nuner.base.jsonl"
    row = json.loads(path.read_text("utf8").split("\n")[0])
    row = {**row, "text": row["text"].replace(" met", "\u2028met")}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", "utf8")
    assert read_run(metrics, training).predictions["base"] == [row]
    path.write_text('{"id": 1', "utf8")
    with pytest.raises(ValueError, match=r"nuner.base.jsonl is no JSON"):
        read_run(metrics, training)


def test_an_encoder_of_any_name_has_a_curve(tmp_path: Path):
    metrics, training = make_run(tmp_path)
    results = json.loads((metrics / "nuner.json").read_text("utf8"))
    others = [{**run, "encoder": "mine"} for run in results["runs"] if run["encoder"] == "base"]
    results["summary"] = summarize(results["runs"] + others)
    results["runs"] += others
    write(metrics / "nuner.json", results)
    write_report(read_run(metrics, training), tmp_path / "report")
    assert "mine" in Page((tmp_path / "report/index.html").read_text("utf8")).text


def test_missing_figures_are_named_with_the_command_that_makes_them(tmp_path, capsys, monkeypatch):
    metrics, training = make_run(tmp_path)
    training.mkdir()
    (metrics / "nuner.json").unlink()
    (metrics / "annotation_uniner.json").unlink()
    monkeypatch.setattr(sys, "argv", sys.argv)
    run(f"python -m scripts.report {metrics} {training} {tmp_path / 'report'}", code=1)
    message = re.sub(r"\s+", "", capsys.readouterr().out)
    assert f"{metrics}/nuner.json(madeby`weaselrunevaluate`)" in message
    assert f"{metrics}/annotation_uniner.json(madeby`weaselrunannotate`)" in message
    assert "zero_shot_tuned" not in message
    assert not (tmp_path / "report").exists()


def test_without_matplotlib_the_message_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    metrics, training = make_run(tmp_path)
    training.mkdir()
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run(f"python -m scripts.report {metrics} {training} {tmp_path / 'report'}", code=1)
    assert "spacy-universalner[report]" in re.sub(r"\s+", "", capsys.readouterr().out)


def test_steps_are_summed_by_stage():
    steps = [
        {"stage": "train", "step": "a", "seconds": 1.5},
        {"stage": "report", "step": "", "seconds": 1.0},
        {"stage": "train", "step": "b", "seconds": 2.5},
    ]
    stages = group_stages(steps)
    assert [(stage["name"], stage["seconds"]) for stage in stages] == [("train", 4), ("report", 1)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (42.2, "42 s"), (59.7, "1 min 00 s"), (3600, "60 min 00 s")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str):
    assert duration(seconds).replace("\xa0", " ") == text


def test_a_training_cut_short_is_told(report: Path, page: Page):
    markdown = (report / "report.md").read_text("utf8")
    assert "`finetune` took 1,200 of 2,500 steps" in markdown
    assert "`pretrain` took" not in markdown
    text = " ".join(page.text.split())
    assert "took 1,200 of 2,500 steps" in text
    assert text.count("limit of time in its settings was reached") == 1
