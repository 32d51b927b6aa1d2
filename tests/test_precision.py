"""Which number formats this machine computes in."""

import platform
from pathlib import Path

import pytest
import torch

from spacy_universalner.precision import (
    choose_precision,
    computes_in_bfloat16,
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


def test_auto_is_what_the_device_computes_in():
    expected = "bfloat16" if computes_in_bfloat16(CPU) else "float32"
    assert choose_precision("auto", CPU) == expected


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
