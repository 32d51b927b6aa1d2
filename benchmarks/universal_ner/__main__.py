"""How fast `universal_ner` asks a causal language model, against the other ways to do it.

python -m benchmarks.universal_ner
"""

from __future__ import annotations

import json
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch
import typer
from tqdm import tqdm
from transformers.utils import logging
from wasabi import msg

from benchmarks.universal_ner import peers
from benchmarks.universal_ner.models import MODELS, make_model
from benchmarks.universal_ner.report import make_tables, plot
from spacy_universalner.data.readers import read_passages
from spacy_universalner.ty import Prompt
from spacy_universalner.universal_ner.models.closing import find_close
from spacy_universalner.universal_ner.models.hf import HFModel, make_hf_model
from spacy_universalner.universal_ner.models.trees import Tree
from spacy_universalner.universal_ner.models.weights import load_model
from spacy_universalner.universal_ner.prompt import build_prompts
from spacy_universalner.universal_ner.tokenization import encode_pieces

LENGTHS = (64, 220, 440)  # tokens of text
TYPES = (1, 5, 10, 25)
ANSWER = 16  # tokens; the weights are random, so that no answer ends earlier
AROUND = 100  # tokens that prompt and answer have beside the text, at most
TOGETHER = 32  # documents at once, for `universal_ner`
LABELS = [
    *("person", "organization", "location", "date", "event", "product", "work of art", "law"),
    *("language", "nationality", "money", "percentage", "time", "quantity", "disease", "drug"),
    *("gene", "protein", "software", "programming language", "malware", "vulnerability"),
    *("company", "political party", "university"),
]
GOLD = [Path(f"assets/gold_{part}.jsonl") for part in ("train", "dev", "test")]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(
    output: Path = typer.Option(Path(__file__).parent / "results", help="Folder for the results"),
    models: str = typer.Option("llama-58m,student", help=f"Some of: {', '.join(MODELS)}"),
    device: str = typer.Option("cpu", help="A torch device"),
    documents: int = typer.Option(10000, help="The most documents of the run over many"),
    threads: int = typer.Option(2, help="CPU threads"),
    clock: str = typer.Option(
        "wall", help="wall, or cpu: processor time, for a machine that others use (with 1 thread)"
    ),
) -> None:
    """Measure, and write a table, a plot and the figures, named after the device."""
    torch.set_num_threads(threads)
    Clock.now = CLOCKS[clock]
    logging.set_verbosity_error()
    output.mkdir(parents=True, exist_ok=True)
    results = read_results(output / f"{device}.json")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": threads,
        "clock": clock,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name in filter(None, models.split(",")):
            folder = str(make_model(name, Path(temporary), device))
            model = make_hf_model(folder, device=device, max_new_tokens=ANSWER)
            results[name] = {
                "machine": machine,
                "forward_tokens_per_second": forward_rate(model),
                "grid": measure_grid(name, model, folder),
                "budgets": measure_budgets(folder, device, threads, clock),
            }
            save(results, output, device)
        if documents:
            folder = str(make_model("llama-tiny", Path(temporary), device))
            model = make_hf_model(folder, device=device, max_new_tokens=ANSWER)
            rows = measure_documents(model, documents)
            results["documents"] = [{**row, "machine": machine} for row in rows]
            save(results, output, device)
    msg.good(f"Wrote the results to {output}")


def read_results(path: Path) -> dict[str, Any]:
    """What an earlier run has measured; older files name one machine for all of it."""
    results = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    machine = results.pop("machine", None)
    for measured in results.values():
        for each in measured if isinstance(measured, list) else [measured]:
            each.setdefault("machine", machine)
    return results


def save(results: dict[str, Any], output: Path, device: str) -> None:
    """Write what has been measured so far; the figures of each machine under its own header."""
    (output / f"{device}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
    machines: list[dict[str, Any]] = []
    for each in results.values():
        if machine_of(each) not in machines:
            machines.append(machine_of(each))
    tables = [
        make_tables({k: each for k, each in results.items() if machine_of(each) == one}, one)
        for one in machines
    ]
    (output / f"{device}.md").write_text("\n".join(tables), encoding="utf8")
    plot(results, output / f"{device}.svg")


def machine_of(measured: dict[str, Any] | list[dict[str, Any]]) -> dict[str, Any]:
    """What a model, or the rows of the run over many documents, was measured on."""
    return (measured[0] if isinstance(measured, list) else measured)["machine"]


def measure_grid(name: str, model: HFModel, folder: str) -> list[dict[str, Any]]:
    """Every length and number of types, every way to ask."""
    weights, tokenizer = load_model(model.source), model.tokenizer
    ways = {
        "loop": (peers.generate_loop(weights, tokenizer, ANSWER), 1),
        "batch": (peers.generate_batch(weights, tokenizer, ANSWER), 1),
        "universal_ner": (peers.universal_ner(model), TOGETHER),
    }
    rows = []
    room = model.context_length or max(LENGTHS) + AROUND
    lengths = [length for length in LENGTHS if length + AROUND <= room]
    points = [(length, types) for length in lengths for types in TYPES]
    for length, types in tqdm(points, desc=name):
        asked = ask_for(model, length, types, TOGETHER)
        row: dict[str, Any] = {
            "length": length,
            "types": types,
            "least_tokens": least_tokens(model, asked[0]),
        }
        at_once = dict(ways)
        if (length, types) == (220, 10) and weights.dtype == torch.float32:
            at_once["spacy-llm"] = (peers.spacy_llm_hf(folder, ANSWER), 1)
        answers = {}
        for way, (ask, count) in at_once.items():
            ask(ask_for(model, 16, 1, 1))
            seconds, answers[way] = timed(partial(ask, asked[:count]), weights.device)
            row[way] = seconds / count
        row["same"] = sum(
            comparable(ours) == comparable(looped)
            for ours, looped in zip(answers["universal_ner"][0], answers["loop"][0], strict=True)
        )
        rows.append(row)
    return rows


def measure_budgets(folder: str, device: str, threads: int, clock: str) -> list[dict[str, float]]:
    """Speed and memory by `batch_tokens`, each in a process of its own, which keeps no memory of
    another."""
    rows = []
    for budget in (1024, 4096, 16384):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            rows.append(
                pool.submit(measure_budget, folder, device, threads, clock, budget).result()
            )
    return rows


def measure_budget(
    folder: str, device: str, threads: int, clock: str, budget: int
) -> dict[str, float]:
    """Speed and memory on 16 documents of 220 tokens and 10 types."""
    torch.set_num_threads(threads)
    Clock.now = CLOCKS[clock]
    model = make_hf_model(folder, device=device, max_new_tokens=ANSWER)
    model.batch_tokens = budget
    list(model.answer(ask_for(model, 16, 1, 1)))
    asked = ask_for(model, 220, 10, 16)
    with Peak(model) as peak:
        start = Clock.now()
        list(model.answer(asked))
        seconds = Clock.now() - start
    return {
        "batch_tokens": budget,
        "seconds_per_document": seconds / len(asked),
        "megabytes": peak.bytes / 2**20,
    }


def measure_documents(model: HFModel, most: int) -> list[dict[str, float]]:
    """Milliseconds per document over many documents, in one stream."""
    texts = read_texts()
    rows = []
    # From about 1,000 on a batch is as large as the budget allows.
    for count in (most // 10, 3 * most // 10, most):
        stream = islice(cycle(texts), count)
        prompts = (build_prompts(text, LABELS[:3]) for text in stream)
        with Peak(model) as peak:
            start = Clock.now()
            for _ in tqdm(model.answer(prompts), total=count, desc="documents"):
                pass
            seconds = Clock.now() - start
        rows.append(
            {
                "documents": count,
                "milliseconds_per_document": 1000 * seconds / count,
                "megabytes": peak.bytes / 2**20,
            }
        )
    return rows


def forward_rate(model: HFModel) -> float:
    """Tokens per second of a plain forward pass, at its best size."""
    weights = load_model(model.source)
    rates = []
    for size in (256, 512, 1024) if weights.device.type == "cuda" else (128, 256, 512):
        ids = torch.randint(1000, 20000, (1, size), device=weights.device)
        with torch.inference_mode():
            weights(ids)
            seconds, _ = timed(partial(weights, ids), weights.device, turns=8)
        rates.append(size / seconds)
    return max(rates)


def ask_for(model: HFModel, length: int, types: int, count: int) -> list[list[Prompt]]:
    """Prompts about `count` different texts of `length` tokens."""
    text = " ".join(read_texts())
    offsets = model.token_offsets(text[: 8 * length * (count + 1) + 100])
    texts = [text[offsets[i * length][0] : offsets[(i + 1) * length - 1][1]] for i in range(count)]
    return [build_prompts(text, LABELS[:types]) for text in texts]


def read_texts() -> list[str]:
    """The sentences of the gold task."""
    return [passage.text for path in GOLD for passage in read_passages(path)]


def least_tokens(model: HFModel, prompts: Sequence[Prompt]) -> int:
    """Each token of the shared text, of each question and of each answer once."""
    encoded = [encode_pieces(model.tokenizer, prompt.pieces).ids for prompt in prompts]
    return Tree.plant(encoded).size + len(prompts) * ANSWER


def timed(run: Callable[[], Any], device: torch.device, turns: int = 2) -> tuple[float, Any]:
    """The best of some runs, or of one that takes long."""
    seconds, result = [], None
    for _ in range(turns):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = Clock.now()
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(Clock.now() - start)
        if seconds[0] > 2:
            break
    return min(seconds), result


def comparable(answer: str) -> str:
    """An answer without what decoders differ in: spaces, case, what follows a closed list."""
    return "".join(answer[: find_close(answer)].split()).lower()


class Clock:
    """What seconds are read from."""

    now: Callable[[], float] = time.perf_counter


class Peak:
    """The most memory that is taken on top of what was taken before, in `bytes`."""

    def __init__(self, model: HFModel) -> None:
        load_model(model.source)
        self._cuda = load_model(model.source).device.type == "cuda"
        self.bytes = 0

    def __enter__(self) -> Peak:
        self._before = self._taken()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, self._taken() - self._before)

    def _taken(self) -> int:
        return torch.cuda.memory_allocated() if self._cuda else psutil.Process().memory_info().rss


if __name__ == "__main__":
    typer.run(main)
