"""The same annotation run on a Ray cluster: many machines ask, one keeps the answers.

Needs the extra `ray`. The texts reach the workers as Parquet, and their results come back as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from pyarrow.dataset import dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from spacy.cli._util import import_code
from spacy.util import minibatch

from ...ty import Mention, Passage, Reject
from ..store import ResponseStore
from .run import annotate, annotated_to_dict, load_annotator, stored_model
from .tasks import Annotation

TEXT = pa.schema([("position", pa.int64()), ("id", pa.string()), ("text", pa.string())])
REJECT = pa.struct([("item", pa.string()), ("reason", pa.string())])
ENTITY = pa.struct(
    [
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("label", pa.string()),
        ("description", pa.string()),
    ]
)
RESULT = pa.schema(
    [*TEXT, ("entities", pa.list_(ENTITY)), ("rejects", pa.list_(REJECT)), ("dropped", REJECT)]
)


def annotate_on_cluster(
    prepared: Path,
    results: Path,
    *,
    store: Path,
    workers: int,
    batch_size: int = 64,
    code: Path | None = None,
    **annotator: Any,
) -> None:
    """Annotate texts on the cluster that `ray.init` has connected to.

    A worker that dies is replaced and its batch done again; no answer is asked for twice.

    prepared (Path): Folder of Parquet files, as `write_texts` makes it.
    results (Path): Folder for Parquet files with the schema `RESULT`.
    store (Path): SQLite file of the responses, on the machine that calls this; the same that a
        run without a cluster uses.
    workers (int): Processes that ask; each has the model's own concurrency.
    batch_size (int): Texts of a worker's batch.
    code (Path | None): Python file with registered functions, such as a model.
    annotator (Any): Arguments of `load_annotator`. Every file in them, and both folders, must be
        readable on every machine.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    keeper: Any = StoreKeeper
    keeper = keeper.options(scheduling_strategy=here).remote(str(store))
    ray.data.read_parquet(str(prepared)).map_batches(
        Worker,
        fn_constructor_kwargs={"keeper": keeper, "code": code, "annotator": annotator},
        batch_format="pyarrow",
        batch_size=batch_size,
        num_cpus=0.5,  # a worker waits for answers most of the time; reading and writing need some
        compute=ray.data.ActorPoolStrategy(size=workers),
    ).write_parquet(str(results))


def write_texts(path: Path, passages: Iterable[Passage], *, file_size: int) -> int:
    """Write texts as Parquet files, each of which is one task for a worker.

    path (Path): The folder.
    passages (Iterable[Passage]): The texts; streamed.
    file_size (int): Texts in a file.
    RETURNS (int): How many texts there were.
    """
    path.mkdir(parents=True)
    position = 0
    for number, batch in enumerate(minibatch(passages, file_size)):
        rows = [
            {"position": position + i, "id": passage.id, "text": passage.text}
            for i, passage in enumerate(batch)
        ]
        pq.write_table(pa.Table.from_pylist(rows, TEXT), path / f"{number:06}.parquet")
        position += len(rows)
    return position


def read_results(path: Path) -> Iterator[tuple[Passage, Annotation, None]]:
    """Stream the results of a run in the order of its texts.

    path (Path): The folder that `annotate_on_cluster` has written.
    YIELDS (tuple[Passage, Annotation, None]): As from `annotate`, but for the Docs.
    """
    for row in chain.from_iterable(part.to_pylist() for part in _in_order(path)):
        text, entities = row["text"], row["entities"]
        mentions = tuple(Mention(e["start"], e["end"], e["label"]) for e in entities)
        annotation = Annotation(
            mentions,
            tuple(Reject(**reject) for reject in row["rejects"]),
            Reject(**row["dropped"]) if row["dropped"] else None,
            {
                (text[e["start"] : e["end"]], e["label"]): e["description"]
                for e in entities
                if e["description"] is not None
            },
        )
        yield Passage(row["id"], text, mentions), annotation, None


def _in_order(path: Path) -> Iterator[pa.Table]:
    """Tables of rows by position: files whose positions interlock are read together."""
    places = []
    for file in dataset(path).get_fragments():
        positions = file.to_table(columns=["position"])["position"].to_numpy()
        if len(positions):
            places.append((positions.min(), positions.max(), file.path))
    group: list[str] = []
    reached = -1
    for first, last, name in sorted(places):
        if group and first > reached:
            yield _read_sorted(group)
            group = []
        group.append(name)
        reached = max(reached, last)
    if group:
        yield _read_sorted(group)


def _read_sorted(names: list[str]) -> pa.Table:
    return pa.concat_tables(pq.read_table(name) for name in names).sort_by("position")


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class StoreKeeper:
    """Holds the run's `ResponseStore`, in one process for all workers."""

    def __init__(self, path: str) -> None:
        self.store = ResponseStore(path)

    def call(self, method: str, *values: str) -> Any:
        """Call one of the store's methods."""
        return getattr(self.store, method)(*values)


class RemoteStore:
    """A worker's way to the store: an answer is on disk when `put` returns.

    keeper (ActorHandle): The `StoreKeeper`.
    """

    def __init__(self, keeper: Any) -> None:
        self.keeper = keeper

    def get(self, key: str) -> str | None:
        return ray.get(self.keeper.call.remote("get", key))

    def put(self, key: str, value: str) -> None:
        ray.get(self.keeper.call.remote("put", key, value))

    def fail(self, key: str, reason: str) -> None:
        ray.get(self.keeper.call.remote("fail", key, reason))

    def failures(self) -> dict[str, str]:
        failures: dict[str, str] = ray.get(self.keeper.call.remote("failures"))
        return failures


class Worker:
    """Annotates batches of texts.

    keeper (ActorHandle): The `StoreKeeper`.
    code (Path | None): Python file with registered functions.
    annotator (Mapping[str, Any]): Arguments of `load_annotator`.
    """

    def __init__(self, keeper: Any, code: Path | None, annotator: Mapping[str, Any]) -> None:
        import_code(code)
        self.nlp = load_annotator(**annotator, store=":memory:")
        stored_model(self.nlp).store = RemoteStore(keeper)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn a table of `TEXT` into one of `RESULT`."""
        texts = batch.to_pylist()
        passages = [Passage(row["id"], row["text"]) for row in texts]
        rows = [
            {
                **row,
                "entities": annotated_to_dict(passage, annotation)["entities"],
                "rejects": [vars(reject) for reject in annotation.rejects],
                "dropped": None if annotation.dropped is None else vars(annotation.dropped),
            }
            for row, (passage, annotation, _) in zip(
                texts, annotate(self.nlp, passages, batch_size=len(texts)), strict=True
            )
        ]
        return pa.Table.from_pylist(rows, RESULT)
