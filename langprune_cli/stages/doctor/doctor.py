"""`doctor`: checks and measures this machine for pruning, and gives advice."""

import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants, get_token

from langprune_cli.stages.evaluate.loaded import free_bytes
from langprune_cli.version import __version__

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "huggingface_hub",
    "numpy",
    "pyarrow",
    "typer",
)
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")  # as Linux spells them, x86 and ARM
_CPU_INFO = Path("/proc/cpuinfo")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_SECONDS = 0.4  # per measurement of a rate, after one warm-up product
_CPU_SIZE, _CUDA_SIZE = 1024, 4096
_LITTLE_DISK = 10 * 10**9  # bytes; a model of 4 B parameters in bfloat16 has 8 GB
_SLOWER = 0.8  # of float32's rate; below this bfloat16 is not worth its rounding


@dataclass(frozen=True)
class Rate:
    """The rate of products of square matrices, 2 size³ operations each."""

    device: str
    dtype: str
    size: int
    gflops: float  # 10⁹ operations per second


@dataclass(frozen=True)
class Place:
    """A folder that fills up."""

    what: str
    path: str
    bytes: int  # of the files in it
    free_bytes: int


class Cpu(TypedDict):
    """The processor and its memory; None if the system does not tell."""

    name: str
    cores: int | None
    usable_cores: int | None
    threads: int
    features: list[str]
    kernels: str
    memory_bytes: int | None
    free_bytes: int | None


class Gpu(TypedDict):
    """One GPU."""

    device: str
    name: str
    capability: str
    memory_bytes: int
    free_bytes: int


class HubSettings(TypedDict):
    """The settings of the hub."""

    endpoint: str
    offline: bool
    token: bool  # whether there is one


@dataclass(frozen=True)
class Checkup:
    """The result of the check."""

    versions: dict[str, str | None]  # of packages; None for a missing one
    cpu: Cpu
    cuda: list[Gpu]
    rates: list[Rate]
    places: list[Place]
    hub: HubSettings
    advice: list[str] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """Return it for --json."""
        return {"schema": 1, **asdict(self)}


def check_up(workspace: Path) -> Checkup:
    """Check versions, devices, disks and the hub's settings, and measure matrix products (about a second per device).

    It writes nothing and does not use the network. Of the hub's token it tells only whether there is one.
    """
    cuda = [_cuda(number) for number in range(torch.cuda.device_count())]
    rates = [_rate(torch.device("cpu"), dtype, _CPU_SIZE) for dtype in (torch.float32, torch.bfloat16)]
    for number in range(len(cuda)):
        rates += [_rate(torch.device("cuda", number), dtype, _CUDA_SIZE) for dtype in (torch.float32, torch.bfloat16)]
    found = Checkup(
        versions={"python": platform.python_version(), "langprune": __version__, **{p: _version(p) for p in _PACKAGES}},
        cpu=_cpu(),
        cuda=cuda,
        rates=rates,
        places=[
            _place("workspace", workspace),
            _place("models from the hub", Path(constants.HF_HUB_CACHE)),
            _place(
                "texts from the hub", Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets"))
            ),
        ],
        hub={
            "endpoint": _public(constants.ENDPOINT),
            "offline": constants.HF_HUB_OFFLINE,
            "token": get_token() is not None,
        },
    )
    found.advice.extend(advice_on(found, driver=_NVIDIA_DRIVER.exists()))
    return found


def advice_on(found: Checkup, *, driver: bool = False) -> list[str]:
    """Return advice on the result, one sentence each. driver: whether the system has a driver for NVIDIA's GPUs."""
    rates = {(rate.device, rate.dtype): rate.gflops for rate in found.rates}
    advice = [
        f"{name} is missing: install langprune again, with pip install . from the root of a clone"
        for name, number in found.versions.items()
        if number is None
    ]
    full, half = rates.get(("cpu", "float32"), 0.0), rates.get(("cpu", "bfloat16"), 0.0)
    if full and half < _SLOWER * full:
        advice.append(f"bfloat16 runs at {half / full:.0%} of float32's rate on this CPU: use --dtype float32")
    if found.cpu["threads"] < (found.cpu["usable_cores"] or 0) and "OMP_NUM_THREADS" in os.environ:
        advice.append(
            f"torch uses {found.cpu['threads']} of {found.cpu['usable_cores']} cores: unset OMP_NUM_THREADS to use all"
        )
    if driver and not found.cuda:
        advice.append("there is an NVIDIA driver, but torch sees no GPU: install a torch that is built for CUDA")
    little: dict[int, list[Place]] = {}  # by free bytes: one sentence per disk
    for place in found.places:
        if place.free_bytes < _LITTLE_DISK:
            little.setdefault(place.free_bytes, []).append(place)
    for free, places in little.items():
        advice.append(
            f"{free / 1e9:.1f} GB are free for {' and '.join(place.what for place in places)}: free some space, or choose "
            "another --workspace, or another HF_HOME"
        )
    if found.hub["offline"]:
        advice.append("models and texts come only from the cache: unset HF_HUB_OFFLINE to fetch others")
    elif not found.hub["token"]:
        advice.append("not logged in to the hub, as gated models require: run hf auth login, or set HF_TOKEN")
    return advice


def _public(endpoint: str) -> str:
    """Return an address without a name and password in it."""
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> Cpu:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = _cpu_info()
    return {
        "name": described.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "threads": torch.get_num_threads(),
        "features": [
            each for each in _FEATURES if each in (described.get("flags") or described.get("Features", "")).split()
        ],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": _memory(),
        "free_bytes": free_bytes(torch.device("cpu")),
    }


def _memory() -> int | None:
    """Return the machine's memory in bytes, None if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _cpu_info() -> dict[str, str]:
    """Return Linux's record of the first core; nothing on other systems."""
    try:
        first = _CPU_INFO.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cuda(number: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(number)
    properties = torch.cuda.get_device_properties(number)
    return {
        "device": f"cuda:{number}",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": total,
        "free_bytes": free,
    }


def _rate(device: torch.device, dtype: torch.dtype, size: int) -> Rate:
    """Measure products of two matrices of ones; the time does not depend on values."""
    left, right = torch.ones(2, size, size, dtype=dtype, device=device)
    torch.mm(left, right)
    products, begun = 0, _now(device)
    while (taken := _now(device) - begun) < _SECONDS or not products:
        torch.mm(left, right)
        products += 1
    gflops = products * 2 * size**3 / taken / 1e9
    return Rate(str(device), str(dtype).removeprefix("torch."), size, round(gflops, 1))


def _now(device: torch.device) -> float:
    """Return the time after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def _place(what: str, path: Path) -> Place:
    path = path.expanduser().absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    return Place(what, str(path), _bytes_in([str(path)]), shutil.disk_usage(there).free)


def _bytes_in(folders: Sequence[str]) -> int:
    """Return the bytes of all files below some folders, without following links; unreadable files are left out."""
    found, pending = 0, list(folders)
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        found += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return found
