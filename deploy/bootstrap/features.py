"""The CPU features that llama.cpp is compiled with, and the fallbacks with fewer."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass

PORTABLE_OPTION = "GGML_NATIVE=OFF"
VARIANTS_OPTION = "GGML_CPU_ALL_VARIANTS=ON"

_OPTIONS = {
    "GGML_SSE42": ("sse4_2",),
    "GGML_AVX": ("avx",),
    "GGML_F16C": ("f16c",),
    "GGML_FMA": ("fma",),
    "GGML_BMI2": ("bmi2",),
    "GGML_AVX2": ("avx2",),
    "GGML_AVX_VNNI": ("avx_vnni",),
    "GGML_AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "GGML_AVX512_VBMI": ("avx512vbmi",),
    "GGML_AVX512_VNNI": ("avx512_vnni",),
    "GGML_AVX512_BF16": ("avx512_bf16",),
}
"""ggml's options for x86-64, and the flags of the CPU that each needs. AMX's are left out."""

_ONE_BACKEND = ("-DGGML_BACKEND_DL=OFF", "-DGGML_CPU_ALL_VARIANTS=OFF")


@dataclass(frozen=True)
class Features:
    """One way to compile llama.cpp.

    Attributes:
        name: As `backends/build_record.py` has it.
        title: What is compiled, for people.
        options: For CMake, after all others.
        needs: The flags that a CPU must have; or "cpu" for those that this CPU has, or
            "library" for those that the compiled library names.
        cost: What is lost against all features, for people.
    """

    name: str
    title: str
    options: tuple[str, ...] = ()
    needs: str | tuple[str, ...] = "cpu"
    cost: str = ""


def ladder(flags: Iterable[str], cmake_args: str) -> list[Features]:
    """The builds to try, each with fewer features than the one before it.

    Args:
        flags: Of this machine's CPU.
        cmake_args: What the user gives CMake: with `GGML_NATIVE=OFF`, the build is for other
            machines too.
    """
    if PORTABLE_OPTION in cmake_args:
        variants = VARIANTS_OPTION in cmake_args
        title = "with a variant for each kind of CPU" if variants else "as CMAKE_ARGS says"
        return [Features("portable", title, (), () if variants else "library"), _baseline()]
    builds = [Features("full", "with all features of this CPU")]
    if platform.machine() in ("x86_64", "AMD64"):
        builds += _reduced(frozenset(flags))
    return [*builds, _baseline()]


def _reduced(flags: frozenset[str]) -> list[Features]:
    """Builds for x86-64 between all features and none, by ggml's own options."""
    builds = []
    with_amx = any(flag.startswith("amx") for flag in flags)
    with_avx512 = "avx512f" in flags
    if with_amx:
        cost = "prompts take about twice as long"
        builds.append(_named("no-amx", "without AMX", flags, _OPTIONS, cost))
    if with_avx512:
        kept = [option for option in _OPTIONS if "AVX512" not in option]
        title = "without AMX and AVX-512" if with_amx else "without AVX-512"
        builds.append(_named("no-avx512", title, flags, kept, "prompts and streams take longer"))
    return builds


def _named(
    name: str, title: str, flags: frozenset[str], kept: Iterable[str], cost: str
) -> Features:
    on = [option for option in kept if flags.issuperset(_OPTIONS[option])]
    options = [f"-D{option}={'ON' if option in on else 'OFF'}" for option in _OPTIONS]
    needs = sorted(flag for option in on for flag in _OPTIONS[option])
    return Features(name, title, (f"-D{PORTABLE_OPTION}", *options), tuple(needs), cost)


def _baseline() -> Features:
    off = [f"-D{option}=OFF" for option in _OPTIONS]
    return Features(
        "baseline",
        "with the plain instructions only",
        (f"-D{PORTABLE_OPTION}", *_ONE_BACKEND, *off),
        (),
        "prompts and streams take much longer",
    )
