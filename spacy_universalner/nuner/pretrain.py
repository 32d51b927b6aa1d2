"""Pre-training an encoder on annotated text (NuNER 3.2 and 3.3): loop and export."""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers.modeling_utils import PreTrainedModel
from transformers.optimization import get_linear_schedule_with_warmup

from ..budget import TimeBudget
from ..evaluation.provenance import provenance
from ..precision import choose_precision, find_device
from ..ty import Passage
from .backbone import freeze_bottom, load_encoder, max_length
from .batches import Collator, Rows, plan_batches, tokenize_passage
from .checkpoint import Checkpoint, fingerprint, load_parameters, trained_parameters
from .contrastive import (
    ContrastiveModel,
    bottom_states,
    comes_apart,
    embed_concepts,
    encode,
    without_bottom,
)
from .model_card import model_card
from .pretrain_settings import PretrainSettings
from .probe import FewShotProbe

CHUNK = 64
LOG_EVERY = 10  # steps
METRICS_FILE = "pretraining.json"
CONCEPT_ENCODER = "concept-encoder"


def split_passages(
    passages: Sequence[Passage], dev_fraction: float, seed: int
) -> tuple[list[Passage], list[Passage]]:
    """Hold out some passages at random.

    passages (Sequence[Passage]): All.
    dev_fraction (float): Share to hold out, rounded down.
    seed (int): The same seed draws the same.
    RETURNS (tuple[list[Passage], list[Passage]]): To train on and to validate on, in file order.
    """
    number = int(len(passages) * dev_fraction)
    held_out = set(random.Random(seed).sample(range(len(passages)), number))
    train = [passage for index, passage in enumerate(passages) if index not in held_out]
    return train, [passages[index] for index in sorted(held_out)]


class Pretrainer:
    """One training run, from passages to trained encoders.

    passages (Sequence[Passage]): Annotated text; the labels are the concepts.
    settings (PretrainSettings): How to train.
    checkpoint (Path): Written after every epoch. If it holds a run with the same settings and
        passages, that run is continued, with the result that it would have had.
    probe (FewShotProbe | None): Scores the text encoder after every epoch.
    tracker (GeneralTracker | None): A logger of one's own, beside what `log_with` names.
    progress (bool): Show a progress bar.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        settings: PretrainSettings,
        checkpoint: Path,
        *,
        probe: FewShotProbe | None = None,
        tracker: GeneralTracker | None = None,
        progress: bool = True,
    ) -> None:
        if settings.keep == "probe" and probe is None:
            raise ValueError("[pretraining] keep = 'probe' needs passages to probe on.")
        self.settings = settings
        self.probe = probe
        self.progress = progress
        # Settings are kept for the whole process: those of a Trainer before would clash with ours.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.precision = choose_precision(settings.precision, find_device())
        self.accelerator = Accelerator(
            # Else several processes without a GPU would each train alone.
            cpu=not torch.accelerator.is_available(),
            mixed_precision="bf16" if self.precision == "bfloat16" else "no",
            log_with=[each for each in (settings.log_with, tracker) if each] or None,
            project_dir=checkpoint.parent,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        set_seed(settings.seed)
        text_encoder, self.tokenizer = load_encoder(settings.encoder)
        self.fingerprint = fingerprint(settings, passages, probe, text_encoder)
        self.checkpoint = Checkpoint(checkpoint, self.fingerprint, self.accelerator)
        concept_encoder, _ = load_encoder(settings.encoder)
        self.frozen = freeze_bottom(text_encoder, settings.frozen)
        self.concept_frozen = freeze_bottom(concept_encoder, settings.concept_frozen)
        self.encoders = ContrastiveModel(
            text_encoder,
            concept_encoder,
            pooling=settings.pooling,
            temperature=settings.temperature,
            bias=settings.bias,
        )
        length = min(settings.max_length, max_length(text_encoder))
        train, dev = split_passages(passages, settings.dev_fraction, settings.seed)
        processes = self.accelerator.num_processes
        if settings.minutes and processes > 1:
            raise ValueError(
                f"[pretraining] minutes = {settings.minutes} with {processes} processes: each "
                "would stop by a clock of its own. Set minutes = 0 and fewer epochs."
            )
        for part, name in ((train, "to train on"), (dev or train, "to validate on")):
            smallest = len(part) // max(1, self._count_batches(part))
            if smallest < processes:
                raise ValueError(
                    f"There are {len(part)} passages {name}, in batches of {smallest} or more: "
                    f"expected {processes} in each, one for each process. Raise batch_size "
                    f"({settings.batch_size}), or take fewer processes or more passages."
                )
        if settings.keep == "dev_loss" and not dev:
            raise ValueError(
                f"[pretraining] keep = 'dev_loss' with {len(passages)} passages: dev_fraction = "
                f"{settings.dev_fraction} holds none of them out. Raise it, or keep the last."
            )
        self.words = sum(len(passage.text.split()) for passage in train)
        self.train = [tokenize_passage(passage, self.tokenizer, length) for passage in train]
        self.dev = [tokenize_passage(passage, self.tokenizer, length) for passage in dev]
        self.probed = [
            tokenize_passage(passage, self.tokenizer, length)
            for passage in (probe.passages if probe else ())
        ]
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self.steps_taken = 0
        self.seconds = 0.0
        self.spent = 0.0  # seconds, validation and probing included

    def run(self) -> None:
        """Train for all epochs that are left."""
        settings, accelerator = self.settings, self.accelerator
        torch_optimizer = make_optimizer(self.encoders, settings)
        steps = self.steps_per_epoch
        scheduler = get_linear_schedule_with_warmup(
            torch_optimizer,
            round(settings.warmup * steps * settings.epochs),
            steps * settings.epochs,
        )
        self.encoders.to(accelerator.device)
        with ExitStack() as stack:
            if accelerator.device.type == "cpu":
                # On sentences the fused kernel's backward pass takes longer than all else.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            clock = time.perf_counter()
            train, dev, probed = self._collators(stack)
            self.seconds += time.perf_counter() - clock
            model, optimizer = accelerator.prepare(self.encoders, torch_optimizer)
            first = self._resume(torch_optimizer, scheduler)
            accelerator.init_trackers("nuner", {k: str(v) for k, v in asdict(settings).items()})
            # Not `end_training`, which also ends the processes' group.
            for each in accelerator.trackers:
                stack.callback(each.finish)
            budget = TimeBudget(steps * settings.epochs, settings.minutes, self.spent)
            budget.pace(scheduler)
            bar = stack.enter_context(
                tqdm(
                    total=steps * settings.epochs,
                    initial=steps * first,
                    desc="Pre-training",
                    unit="batch",
                    disable=not (self.progress and accelerator.is_main_process),
                )
            )
            for epoch in range(first, settings.epochs):
                if self.steps_taken and budget.progress(self.steps_taken) == 1:
                    break
                clock = time.perf_counter()
                order = random.Random(f"{settings.seed} {epoch}")
                set_seed(order.getrandbits(32), device_specific=True)  # dropout
                losses = []
                model.train(settings.dropout)
                for loss in self._losses(model, train, order):
                    accelerator.backward(loss * accelerator.num_processes)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                    losses.append(loss.detach())
                    bar.update()
                    self.steps_taken += 1
                    if accelerator.trackers and self.steps_taken % LOG_EVERY == 0:
                        rate = scheduler.get_last_lr()[0]
                        # Of several processes one logs: its share of the batch for the whole
                        share = losses[-1].item() * accelerator.num_processes
                        shown = {"loss": share, "learning_rate": rate}
                        accelerator.log(shown, step=self.steps_taken)
                    if budget.progress(self.steps_taken) == 1:
                        break
                self.seconds += time.perf_counter() - clock
                record = {"epoch": epoch + 1, "loss": self._mean(losses)}
                model.eval()
                if self.dev:
                    with torch.no_grad():
                        losses = list(self._losses(model, dev, random.Random(settings.seed)))
                    record["dev_loss"] = self._mean(losses)
                if self.probe:
                    record["probe"] = self.probe(self.probed, self._encode(probed))
                self.history.append(record)
                accelerator.log({f"epoch/{k}": v for k, v in record.items()}, self.steps_taken)
                self._keep_best()
                bar.set_postfix({name: f"{value:.4g}" for name, value in record.items()})
                self.spent = budget.spent
                self._save(torch_optimizer, scheduler)
            load_parameters(self.encoders, self.best)

    @property
    def steps_per_epoch(self) -> int:
        return self._count_batches(self.train)

    def _count_batches(self, passages: Sequence[Any]) -> int:
        return -(-len(passages) // self.settings.batch_size)

    def metrics(self) -> dict[str, Any]:
        """What is worth knowing about the run: settings, data, losses, speed."""
        passages = self.train + self.dev
        return {
            "settings": asdict(self.settings),
            "processes": self.accelerator.num_processes,
            "passages": {"train": len(self.train), "dev": len(self.dev)},
            "concepts": len({name for passage in passages for name in passage.concepts}),
            "mentions_lost": sum(passage.lost for passage in passages),
            "epochs": self.history,
            "kept_epoch": self.kept + 1,
            "precision": self.precision,
            "steps": self.steps_taken,
            "steps_planned": self.settings.epochs * self.steps_per_epoch,
            "seconds": round(self.seconds, 1),
            "words_per_second": round(
                self.words * self.steps_taken / self.steps_per_epoch / self.seconds, 1
            ),
        }

    def _losses(
        self, model: torch.nn.Module, collator: Collator, order: random.Random
    ) -> Iterator[Tensor]:
        """This process's share of the mean cross-entropy of each batch of one pass.

        Over a batch's concepts it is a mean, over its tokens a sum divided by the tokens of a batch
        on average: texts of like length stand together, and tokens of short ones would count more.
        """
        lengths = [len(passage.ids) for passage in collator.passages]
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        batches = plan_batches(lengths, self.settings.batch_size, order)
        for indices in batches:
            batch = collator(indices, order, rank, ranks).to(self.accelerator.device)
            concepts = sum(len(group.values) for group in batch.concepts)
            yield model(batch) * len(batches) / (sum(lengths) * max(concepts, 1))

    def _mean(self, losses: list[Tensor]) -> float:
        """Mean over the batches of the losses that all processes share."""
        total = self.accelerator.reduce(torch.stack(losses).sum(), reduction="sum")
        return float(total) / len(losses)

    @property
    def kept(self) -> int:
        """Index of the epoch whose weights are the result so far."""
        keep = self.settings.keep
        if keep == "last":
            return len(self.history) - 1
        values = [record[keep] for record in self.history]
        return values.index(min(values) if keep == "dev_loss" else max(values))

    def _keep_best(self) -> None:
        if self.settings.keep != "last" and self.kept == len(self.history) - 1:
            self.best = {
                name: parameter.detach().clone()
                for name, parameter in trained_parameters(self.encoders).items()
            }

    def _collators(self, stack: ExitStack) -> tuple[Collator, Collator, list[Tensor]]:
        """Collators to train and to validate with, and the texts to probe with.

        Where frozen layers are stored, they hold their output and not token ids.
        """
        names = sorted({name for p in self.train + self.dev for name in p.concepts})
        # An annotator may run away within a name: it is cut where the encoder ends.
        limits = {"truncation": True, "max_length": max_length(self.encoders.concept_encoder)}
        ids = self.tokenizer(names, **limits)["input_ids"] if names else []
        concepts = dict(zip(names, (torch.tensor(row) for row in ids), strict=True))
        texts = [
            [torch.tensor(passage.ids) for passage in passages]
            for passages in (self.train, self.dev, self.probed)
        ]
        encoders = self.encoders
        directions = None
        if self.settings.mask_similar and names:
            vectors = embed_concepts(
                encoders.concept_encoder, self.tokenizer, names, pooling=self.settings.pooling
            )
            directions = dict(zip(names, F.normalize(vectors.cpu(), dim=-1), strict=True))
        if self.settings.cache_frozen:
            texts = self._store_bottom(stack, encoders.text_encoder, self.frozen, texts)
            [rows] = self._store_bottom(
                stack, encoders.concept_encoder, self.concept_frozen, [list(concepts.values())]
            )
            concepts = dict(zip(names, rows, strict=True))
        collate = partial(
            Collator,
            concepts=concepts,
            pad_id=self.tokenizer.pad_token_id,
            max_concepts=self.settings.max_concepts,
            directions=directions,
            least=self.settings.mask_similar,
        )
        return collate(self.train, texts[0]), collate(self.dev, texts[1]), texts[2]

    def _store_bottom(
        self, stack: ExitStack, encoder: PreTrainedModel, number: int, parts: list[list[Tensor]]
    ) -> list[list[Tensor]]:
        """Take the frozen bottom off an encoder: each row of ids becomes the states above it."""
        if not number or not parts[0]:
            return parts
        encoder.eval()
        tried = Rows.pad(parts[0][:2], self.tokenizer.pad_token_id).to(encoder.device)
        if not comes_apart(encoder, number, tried):
            warnings.warn(
                f"cache_frozen = true has no effect: the layers of {type(encoder).__name__} do not "
                "work on stored states alone. The frozen ones are computed in every step.",
                stacklevel=2,
            )
            return parts
        states = [
            self._in_chunks(rows, lambda chunk: bottom_states(encoder, number, chunk))
            for rows in parts
        ]
        stack.enter_context(without_bottom(encoder, number))
        return states

    def _encode(self, rows: list[Tensor]) -> list[Tensor]:
        """The text encoder's vectors of each row's tokens, in float32."""

        def vectors(chunk: Rows) -> list[Tensor]:
            states = encode(self.encoders.text_encoder, chunk).float()
            return [row[mask.bool()] for row, mask in zip(states, chunk.mask, strict=True)]

        return self._in_chunks(rows, vectors)

    @torch.no_grad()
    def _in_chunks(
        self, rows: list[Tensor], compute: Callable[[Rows], list[Tensor]]
    ) -> list[Tensor]:
        """Compute something for many rows, those of similar length together."""
        found: dict[int, Tensor] = {}
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for start in range(0, len(rows), CHUNK):
            indices = by_length[start : start + CHUNK]
            chunk = Rows.pad([rows[index] for index in indices], self.tokenizer.pad_token_id)
            with self.accelerator.autocast():
                results = compute(chunk.to(self.accelerator.device))
            found.update(zip(indices, (result.cpu() for result in results), strict=True))
        return [found[index] for index in range(len(rows))]

    def _save(self, optimizer: Any, scheduler: Any) -> None:
        self.checkpoint.save(
            {
                "parameters": trained_parameters(self.encoders),
                "best": self.best,
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "history": self.history,
                "steps_taken": self.steps_taken,
                "seconds": self.seconds,
                "spent": self.spent,
            }
        )

    def _resume(self, optimizer: Any, scheduler: Any) -> int:
        """Continue an interrupted run, if there is one. RETURNS (int): Epochs that are done."""
        state = self.checkpoint.load()
        if state is None:
            return 0
        load_parameters(self.encoders, state["parameters"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        self.best = state["best"]
        self.history = state["history"]
        self.steps_taken = state["steps_taken"]
        self.seconds += state["seconds"]
        self.spent = state["spent"]
        return len(self.history)


def make_optimizer(model: torch.nn.Module, settings: PretrainSettings) -> torch.optim.AdamW:
    """AdamW on what is not frozen; biases and norms do not decay."""
    trained = trained_parameters(model).values()
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1]},
        {
            "params": [parameter for parameter in trained if parameter.ndim <= 1],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def pretrain(
    passages: Sequence[Passage],
    output: Path,
    settings: PretrainSettings,
    *,
    probe: FewShotProbe | None = None,
    tracker: GeneralTracker | None = None,
    progress: bool = True,
    data: Iterable[Path] = (),
) -> dict[str, Any]:
    """Pre-train an encoder and write it where `AutoModel` and `AutoTokenizer` find it.

    Beside it in the folder: the concept encoder (`CONCEPT_ENCODER`), the figures of the run
    (`METRICS_FILE`) and a model card. An interrupted run is continued.

    passages (Sequence[Passage]): Annotated text; the labels are the concepts.
    output (Path): The folder.
    settings (PretrainSettings): How to train.
    probe (FewShotProbe | None): Scores the text encoder after every epoch.
    tracker (GeneralTracker | None): A logger of one's own, beside what `log_with` names.
    progress (bool): Show a progress bar.
    data (Iterable[Path]): Files that the passages are from, for model card and metrics.
    RETURNS (dict[str, Any]): What `METRICS_FILE` holds.
    """
    checkpoint = output / "checkpoint.pt"
    run = Pretrainer(
        passages, settings, checkpoint, probe=probe, tracker=tracker, progress=progress
    )
    run.run()
    metrics = {**run.metrics(), "provenance": provenance(data)}
    if run.accelerator.is_main_process:
        for encoder, folder in (
            (run.encoders.text_encoder, output),
            (run.encoders.concept_encoder, output / CONCEPT_ENCODER),
        ):
            encoder.save_pretrained(folder)
            run.tokenizer.save_pretrained(folder)
        text = json.dumps(metrics, indent=2) + "\n"
        (output / METRICS_FILE).write_text(text, encoding="utf8")
        (output / "README.md").write_text(model_card(metrics, CONCEPT_ENCODER), encoding="utf8")
        checkpoint.unlink()
    return metrics
