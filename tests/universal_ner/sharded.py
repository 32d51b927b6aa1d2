"""One step of tuning with the weights sharded over CPU processes, as FSDP shards them over GPUs.

Accelerate offers FSDP on accelerators only, so the model is wrapped here by hand as
configs/accelerate_fsdp.yaml has it wrapped: the decoder layers apart, original parameters kept.
"""

import functools
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from spacy_universalner.data.readers import read_conversations
from spacy_universalner.processes import leave_group_at_end
from spacy_universalner.universal_ner.finetune import encode_all
from spacy_universalner.universal_ner.finetune_batches import Collator
from spacy_universalner.universal_ner.finetune_data import IGNORE_INDEX
from spacy_universalner.universal_ner.finetune_loss import answer_loss, only_targets
from spacy_universalner.universal_ner.finetune_settings import DataSettings


def step(student: str, conversations: Path, *, sharded: bool) -> dict[str, float]:
    """Loss and gradient norm over all conversations, each process having its part of them."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if sharded else (0, 1)
    model = AutoModelForCausalLM.from_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    rows, _ = encode_all(tokenizer, read_conversations(conversations), DataSettings(), None)
    items = sum(label != IGNORE_INDEX for row in rows for label in row["labels"])
    batch = Collator(0, model.config)(rows[rank::ranks])
    batch.pop("lengths")
    labels = batch.pop("labels")
    head = model.get_output_embeddings()
    if sharded:
        layers = functools.partial(
            transformer_auto_wrap_policy, transformer_layer_cls={LlamaDecoderLayer}
        )
        model = FullyShardedDataParallel(
            model, auto_wrap_policy=layers, use_orig_params=True, device_id=torch.device("cpu")
        )
    with only_targets(head, labels):
        loss = answer_loss(model(**batch), labels, torch.tensor(items)) * ranks
    loss.backward()
    if not sharded:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return {"loss": loss.item(), "norm": norm.item()}
    norm = model.clip_grad_norm_(1.0)
    total = loss.detach() / ranks
    dist.all_reduce(total)
    return {"loss": total.item(), "norm": norm.item()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    with leave_group_at_end():
        result = step(sys.argv[1], Path(sys.argv[2]), sharded=True)
        if dist.get_rank() == 0:
            Path(sys.argv[3]).write_text(json.dumps(result), encoding="utf8")
