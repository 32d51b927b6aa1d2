"""Devices and number formats: which of them there are, and which only in emulation."""

from __future__ import annotations

import warnings

import torch


def find_device() -> torch.device:
    """Where this machine trains.

    PyTorch's `current_accelerator` alone tells what it was built for, which may not be there.

    RETURNS (torch.device): The accelerator, or the CPU where there is none.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device or torch.device("cpu")


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 arithmetic.

    A CPU without it (x86 before AVX-512, ARM before v8.6) still gives the same figures, some
    seventy times slower than in float32.

    device (torch.device): A CPU or an accelerator.
    RETURNS (bool): False where bfloat16 would be emulated.
    """
    if device.type == "cpu":
        available = torch.backends.mkldnn.is_available()  # else there is no such operator
        return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True


def multiplies_integers() -> bool:
    """Whether the CPU multiplies 8-bit integers faster than floating point (AVX-512 VNNI, AMX).

    Elsewhere PyTorch multiplies them one by one, some twenty times slower than in float32.

    RETURNS (bool): False where PyTorch has no fast product of integers.
    """
    return bool(torch.cpu._is_vnni_supported())


def choose_precision(wanted: str, device: torch.device) -> str:
    """Settle "auto", and warn of a format that the device has to emulate.

    wanted (str): A precision; "auto" is "bfloat16" where the device computes in it, else "float32".
    device (torch.device): What computes.
    RETURNS (str): The precision, never "auto".
    """
    if wanted == "auto":
        return "bfloat16" if computes_in_bfloat16(device) else "float32"
    # Float16, for GPUs only, is trained in bfloat16.
    halves = ("bfloat16",) if device.type == "cpu" else ("bfloat16", "float16")
    if wanted in halves and not computes_in_bfloat16(device):
        warnings.warn(
            f"This {device.type.upper()} has no bfloat16 arithmetic and emulates it, many times "
            f"slower than float32. {'To train, use' if wanted == 'float16' else 'Use'} the "
            "precision 'auto' or 'float32'.",
            RuntimeWarning,
            stacklevel=2,
        )
    if wanted == "int8" and device.type == "cpu" and not multiplies_integers():
        warnings.warn(
            "This CPU has no arithmetic for 8-bit integers (AVX-512 VNNI). Rounded values are "
            "multiplied in float32: the figures of int8, but not its speed.",
            RuntimeWarning,
            stacklevel=2,
        )
    return wanted
