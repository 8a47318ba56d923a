"""What the processor is called and what it can do, as far as the system tells."""

import platform
from functools import cache
from pathlib import Path

# Instruction sets that integer kernels use, as Linux names them -> as people do.
_INTEGER = {"avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX512-VNNI", "amx_int8": "AMX"}


def processor() -> str:
    """The processor's name."""
    named = [line.partition(":")[2].strip() for line in _lines() if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def integer_instructions() -> tuple[str, ...]:
    """Instructions that multiply 8-bit integers into 32 bits without saturation; empty where none is known."""
    return tuple(name for flag, name in _INTEGER.items() if flag in _flags())


def machine() -> str:
    """The processor with the instructions that integers run on."""
    features = integer_instructions()
    return processor() + (f" ({', '.join(features)})" if features else "")


def saturates() -> bool:
    """Whether products of uint8 and int8 saturate in 16 bits: x86 without those instructions."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")
    return x86 and bool(_flags()) and not integer_instructions()


@cache
def _lines() -> tuple[str, ...]:
    info = Path("/proc/cpuinfo")
    return tuple(info.read_text().splitlines()) if info.exists() else ()


def _flags() -> frozenset[str]:
    found = [line.partition(":")[2] for line in _lines() if line.startswith("flags")]
    return frozenset(found[0].split()) if found else frozenset()
