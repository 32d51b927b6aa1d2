"""Which number formats this machine computes in."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from spacy_universalner.precision import (
    choose_precision,
    computes_in_bfloat16,
    find_device,
    multiplies_integers,
)

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")


reads_flags = pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="reads x86 flags on Linux"
)


def has_flags(*names):
    flags = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags"))
    return set(names) <= set(flags.split())


@reads_flags
def test_bfloat16_needs_avx512():
    assert computes_in_bfloat16(CPU) == has_flags("avx512bw", "avx512vl", "avx512dq")


@reads_flags
def test_products_of_integers_need_vnni():
    assert multiplies_integers() == has_flags("avx512_vnni")


def test_the_device_can_hold_a_tensor():
    device = find_device()
    assert torch.ones(2, device=device).sum() == 2
    assert (device.type == "cpu") == (not torch.accelerator.is_available())


ABSENT = """
import torch
from torch.utils import backend_registration as backends

from spacy_universalner.precision import find_device

class Module(backends._DummyBackendModule):
    def is_available(self):
        return False

    def device_count(self):
        return 0

class Hook(backends._DummyPrivateUse1Hook):
    def is_available(self):
        return False

backends._setup_privateuseone_for_python_backend("absent", Module(), Hook())
print(torch.accelerator.current_accelerator(), find_device())
"""


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch takes no accelerator from Python",
)
def test_an_accelerator_that_is_not_there_is_not_taken():
    """As a PyTorch for CUDA has it on a machine without a GPU."""
    run = [sys.executable, "-c", ABSENT]
    assert subprocess.check_output(run, text=True).split() == ["absent", "cpu"]


def test_auto_is_what_the_device_computes_in():
    expected = "bfloat16" if computes_in_bfloat16(CPU) else "float32"
    assert choose_precision("auto", CPU) == expected


def test_a_pytorch_without_onednn_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    monkeypatch.delattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
    assert choose_precision("auto", CPU) == "float32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a GPU that is not there")
@pytest.mark.parametrize(
    "wanted, advice",
    [("bfloat16", "Use the precision 'auto'"), ("float16", "To train, use the precision 'auto'")],
)
def test_emulation_on_a_gpu_is_warned_of(wanted, advice):
    with pytest.warns(RuntimeWarning, match=f"This CUDA has no bfloat16 .*{advice}"):
        assert choose_precision(wanted, torch.device("cuda")) == wanted


@pytest.mark.parametrize("wanted", ["float32", "int8", "float16"])
def test_other_precisions_stay(wanted):
    assert choose_precision(wanted, CPU) == wanted


def test_integers_without_their_speed_are_warned_of(recwarn):
    assert choose_precision("int8", CPU) == "int8"
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == (0 if multiplies_integers() else 1)
    assert all("no arithmetic for 8-bit integers" in message for message in told)


def test_emulation_is_warned_of(recwarn):
    assert choose_precision("bfloat16", CPU) == "bfloat16"
    told = [str(warning.message) for warning in recwarn]
    if computes_in_bfloat16(CPU):
        assert told == []
    else:
        assert len(told) == 1
        assert "This CPU has no bfloat16 arithmetic" in told[0]
        assert "'auto' or 'float32'" in told[0]
