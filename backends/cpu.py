"""The machine's CPU: its name, and the instruction sets that it offers."""

from __future__ import annotations

import functools
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)  # x86, Arm
_NAME = re.compile(r"^(?:model name|Model)\s*:\s*(.*)$", re.MULTILINE)

_X86_FLAGS = """
    pni ssse3 sse4_1 sse4_2 sse4a popcnt abm movbe bmi1 bmi2 tbm xop fma fma4 f16c avx avx2
    avx_vnni avx_vnni_int8 avx_vnni_int16 avx_ifma avx_ne_convert gfni
    avx512f avx512cd avx512bw avx512dq avx512vl avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni
    avx512_bitalg avx512_vpopcntdq avx512_bf16 avx512_fp16 avx512_vp2intersect
    amx_tile amx_int8 amx_bf16 amx_fp16
"""
_ARM_FLAGS = """
    asimd fphp asimdhp asimdrdm asimddp asimdfhm i8mm bf16 sve sve2 svei8mm svebf16 sme sme2
"""
_MACOS_FLAGS = """
    FEAT_FP16 FEAT_DotProd FEAT_FHM FEAT_I8MM FEAT_BF16 FEAT_SME FEAT_SME2
"""
CODE_FLAGS = frozenset((_X86_FLAGS + _ARM_FLAGS + _MACOS_FLAGS).split())
"""The flags that stand for instructions that a compiler uses without being asked for each."""

_LIBRARY_FLAGS = {
    "SSE3": "pni",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "NEON": "asimd",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "FP16_VA": "asimdhp",
}
"""The names that llama.cpp has for features, where they are not the system's in capitals."""


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return all flags of this CPU, by the system's names; empty if unknown."""
    if platform.system() == "Darwin":
        listed = _sysctl("hw.optional.arm")
        return frozenset(re.findall(r"^hw\.optional\.arm\.(\w+): 1$", listed, re.MULTILINE))
    found = _FLAGS.search(_cpuinfo())
    return frozenset(found[1].split()) if found else frozenset()


def code_flags() -> frozenset[str]:
    """Those flags of this CPU that compiled code can depend on."""
    return cpu_flags() & CODE_FLAGS


def library_flags(features: Iterable[str]) -> frozenset[str]:
    """The flags of a CPU for the features that llama.cpp says it is compiled with."""
    return frozenset(_LIBRARY_FLAGS.get(name, name.lower()) for name in features) & CODE_FLAGS


def cpu_name() -> str:
    """Return the CPU's name, such as "AMD EPYC"."""
    if platform.system() == "Darwin":
        found = _sysctl("-n", "machdep.cpu.brand_string").strip()
    else:
        match = _NAME.search(_cpuinfo())
        found = match[1].strip() if match else ""
    return found or platform.processor() or platform.machine()


def _cpuinfo() -> str:
    try:
        return _CPUINFO.read_text(errors="replace")
    except OSError:
        return ""


def _sysctl(*arguments: str) -> str:
    try:
        done = subprocess.run(["sysctl", *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout
