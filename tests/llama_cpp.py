"""llama.cpp's server with one of the tiny models, as a process of its own.

`python -m tests.llama_cpp MODEL.gguf` serves a model on loopback, writes the address to standard
output and stops when standard input closes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
)


def write_gguf(folder: Path, path: Path) -> Path:
    """Convert a Llama with a SentencePiece-like tokenizer, in float32.

    folder (Path): As written by `save_pretrained`.
    path (Path): The file to write.
    RETURNS (Path): The same.
    """
    import gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)

    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(id) for id in range(len(tokens))])  # merged in this order
    writer.add_token_types([_token_type(token) for token in tokens])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        weights = tensor.float().numpy()
        if "q_proj" in name:
            weights = _interleave(weights, config.num_attention_heads)
        elif "k_proj" in name:
            weights = _interleave(weights, config.num_key_value_heads)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def serve(model: Path) -> Iterator[str]:
    """Run the server; gives the base URL of its API."""
    command = [sys.executable, "-m", "tests.llama_cpp", str(model)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"llama.cpp's server did not start:\n{process.communicate()[1]}")
        try:
            yield f"{address}/v1"
        finally:
            process.communicate()  # closes standard input


def _token_type(token: str) -> int:
    from gguf import TokenType

    if token in ("<s>", "</s>"):
        return TokenType.CONTROL
    if token == "<unk>":
        return TokenType.UNKNOWN
    return TokenType.BYTE if token.startswith("<0x") else TokenType.NORMAL


def _interleave(weights: np.ndarray, heads: int) -> np.ndarray:
    """From rotating halves of a head, as Hugging Face does, to rotating neighbours."""
    rows, columns = weights.shape
    halves = weights.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def main() -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx = 4096
    params.n_parallel = 2
    params.cpuparams.n_threads = 1
    # In float32 throughout, so that log-probabilities compare.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.chat_template = CHAT_TEMPLATE
    params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)  # on a free port of 127.0.0.1
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
