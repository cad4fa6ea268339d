"""What the figures were measured on and with, the same for every rival: threads, allocator, versions."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

# From <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_pages() -> str:
    """Tells glibc to keep freed memory, and says what was set.

    By default glibc maps every large buffer afresh (from 128 KiB, a bound that moves up to 32 MiB) and gives
    it back when it is freed, so that a benchmark times page faults, and most of them for rivals with many
    large buffers. Here none is mapped and nothing is given back: after a warm-up all reuse their memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return "as it comes (no glibc: freed pages may be given back between calls)"
    # Trimming takes an int: the largest one keeps all there is to keep.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    if not all(mallopt(name, value) for name, value in settings):
        return "as it comes (glibc refused)"
    return "glibc, M_MMAP_MAX=0, M_TRIM_THRESHOLD=2^31-1, M_TOP_PAD=64 MiB (freed pages are kept)"


def stock_pages() -> str:
    """Leaves the allocator alone, and says so."""
    return "as it comes: " + " ".join(platform.libc_ver()) + ", thresholds untouched"


def one_thread() -> None:
    """One thread for every rival; to be called before any of them runs."""
    torch.set_num_threads(1)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(__file__).parent
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None


def describe(allocator: str) -> dict[str, object]:
    """Versions and machine, without names or paths of the host.

    Args:
        allocator: what `keep_pages` or `stock_pages` said.
    """
    packages = ("torch", "transformers", "peft", "numpy", "jax", "torchzero")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "allocator": allocator,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
        "commit": _commit(),
    }
