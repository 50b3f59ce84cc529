"""llama-cpp-python: its version, what llama.cpp was built for, and whether it decodes."""

import contextlib
import importlib.metadata
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from server.config import Settings
from server.doctor.check import Check, fault, ok, warning
from server.doctor.child import CUDA_BUILD, REBUILD, Ended, cause_of_death, run_child
from server.doctor.facts import Build, Native, SeenDevice
from server.doctor.handover import hand_over

PACKAGE = "llama-cpp-python"

_MIB = 2**20
_LOOK_TIMEOUT_S, _DECODE_TIMEOUT_S = 120, 300
_CHILD_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
"""A short look beside whatever else runs: threads that spin would only be in its way, and their own."""
_WITHOUT_CARDS = {"CUDA_VISIBLE_DEVICES": "-1"}
_CPUINFO = Path("/proc/cpuinfo")
_CPU_FLAGS = {
    "AVX": "avx",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
}
"""llama.cpp's names of x86 instructions, and Linux's."""


def look_at_native(settings: Settings, *, at_cards: bool) -> tuple[Native, Ended]:
    """What a child that loads llama.cpp tells, as far as it came.

    ``at_cards`` False keeps it off the cards: whoever looks at them takes a part of their memory.
    """
    parts = ("devices", "plan") if at_cards else ()
    ended = run_child(
        "server.doctor.native",
        *parts,
        stdin=hand_over(settings),
        timeout_s=_LOOK_TIMEOUT_S,
        environment={**os.environ, **_CHILD_ENVIRONMENT, **({} if at_cards else _WITHOUT_CARDS)},
    )
    return _native(ended.stdout), ended


def try_decoding(model: Path, device: str) -> Ended:
    """Decode some tokens with a model on a device, in ggml's words (``CPU``, ``CUDA0``), in a child."""
    return run_child(
        "server.doctor.decode",
        str(model),
        device,
        stdin="",
        timeout_s=_DECODE_TIMEOUT_S,
        environment={**os.environ, **_CHILD_ENVIRONMENT},
    )


def installed_version() -> str | None:
    """The version of the binding, asked without loading it."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def wanted_version() -> str | None:
    """The version that this project was made for; None where the project is not installed as a package."""
    try:
        wanted = importlib.metadata.requires("llm-optimizer") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((line.partition("==")[2] for line in wanted if line.startswith(f"{PACKAGE}==")), None)


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """What Linux says that this CPU can do; empty where it does not say so, as on ARM."""
    with contextlib.suppress(OSError):
        found = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        return frozenset(found[1].split()) if found else frozenset()
    return frozenset()


def judge_binding(installed: str | None, wanted: str | None, native: Native, ended: Ended) -> Check:
    """Whether llama-cpp-python is there, is the right one, and loads."""
    if installed is None:
        return fault("binding", f"{PACKAGE} is not installed", "make install")
    if native.build is None:
        found, remedy = cause_of_death(ended)
        return fault("binding", f"{PACKAGE} {installed}: loading it {found}", remedy)
    if wanted is not None and installed != wanted:
        return fault(
            "binding",
            f"{PACKAGE} {installed}, but this release is made for {wanted}: others have other C structures",
            "make install",
        )
    if ended.status != 0:
        found, remedy = cause_of_death(ended)
        return fault("binding", f"{PACKAGE} {installed} loads, but looking at the devices {found}", remedy)
    return ok("binding", f"{PACKAGE} {installed}")


def judge_build(build: Build, flags: frozenset[str]) -> Check:
    """What it was built for, against what this CPU can do (``flags``, in Linux's words)."""
    features = build.features
    cpu = features.get("CPU", {})
    found = "; ".join(f"{backend}: {_in_short(values)}" for backend, values in features.items())
    if not flags:
        return ok("build", found)
    lacking = [name for name, flag in _CPU_FLAGS.items() if name in cpu and flag not in flags]
    if lacking:
        return fault("build", f"{found}. This CPU has no {', '.join(lacking)}", REBUILD)
    if "AMX_INT8" in cpu:
        return warning(
            "build",
            f"{found}. Built with GGML_NATIVE=ON for a CPU with AMX; a virtual machine may announce AMX and "
            "then kill the process that uses it",
            REBUILD,
        )
    if "avx2" in flags and "AVX2" not in cpu:
        return warning(
            "build",
            f"{found}. This CPU has AVX2, and the build does not use it: prompts are read slowly",
            REBUILD,
        )
    return ok("build", found)


def judge_offload(
    build: Build, devices: Sequence[SeenDevice] | None, wanted: Mapping[str, str], architectures: str
) -> Check:
    """Whether models can go where the settings want them: ``wanted`` has the ``cuda:N`` of each role.

    ``devices`` None: nobody looked. ``architectures`` are those of the cards here.
    """
    asked = ", ".join(f'{role}.device = "{device}"' for role, device in wanted.items())
    if not build.offloads:
        if not wanted:
            return ok("offload", "no GPU support in this build, and the settings ask for none")
        instead = " and ".join(f'{role}.device = "cpu"' for role in wanted)
        return fault(
            "offload",
            f"{asked}, but this build has no GPU support",
            f"build it for the cards: {CUDA_BUILD.format(architectures=architectures)}; or set {instead}",
        )
    if devices is None:
        return ok("offload", "GPU support; the running service has the cards")
    cuda = {device.cuda_index: device for device in devices if device.cuda_index is not None}
    seen = ", ".join(f"cuda:{index} {device.description}" for index, device in cuda.items()) or "no card"
    missing = [device for device in wanted.values() if int(device.removeprefix("cuda:")) not in cuda]
    if missing:
        return fault(
            "offload",
            f"{asked}, but CUDA sees {seen}",
            "see the driver and the cards below, and whether CUDA_VISIBLE_DEVICES hides one",
        )
    return ok("offload", f"GPU support; CUDA sees {seen}")


def judge_decoding(model: Path, device: str, ended: Ended) -> Check:
    """How the attempt to decode went."""
    if ended.status == 0:
        return ok(
            "decode", f"a batch and a token with {model.name}: {ended.stdout.strip()} s", subject=device
        )
    found, remedy = cause_of_death(ended)
    return fault("decode", f"decoding with {model.name} {found}", remedy, subject=device)


def no_model_to_decode() -> Check:
    """Nothing here can be tried."""
    return warning(
        "decode", "not tried: no model is here", "fetch one; make install brings a small one", subject="CPU"
    )


def no_room_to_decode(device: SeenDevice, needed_bytes: int) -> Check:
    """A card that is in use: a try could push out who uses it."""
    found = f"not tried: {device.memory_free_bytes // _MIB} MiB free, and a try takes {needed_bytes // _MIB}"
    return ok("decode", found, subject=device.name)


def _native(lines: str) -> Native:
    parts: dict[str, object] = {}
    for line in lines.splitlines():
        # A library may write to the standard output, too.
        with contextlib.suppress(ValueError):
            part = json.loads(line)
            parts |= part if isinstance(part, dict) else {}
    return TypeAdapter(Native).validate_python(parts)


def _in_short(values: Mapping[str, str]) -> str:
    """Flags that are on by their names alone."""
    return " ".join(name if value == "1" else f"{name}={value}" for name, value in values.items())
