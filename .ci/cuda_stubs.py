"""Stands in for the CUDA libraries that PyTorch's default Linux build links against, to run it on the CPU.

The loader wants every library and every symbol to exist, though nothing on the CPU calls them. So the symbols
that PyTorch leaves undefined are read from its own libraries and defined in small ones, each returning the
error code 1. The CUDA runtime and its profiling interface, which are asked at start-up whether there is a
device, are the real ones (some 15 MB). Needs gcc and binutils. For tests only: with a GPU, install PyTorch
the usual way.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib import metadata
from pathlib import Path

REAL = ("nvidia-cuda-runtime", "nvidia-cuda-cupti")
CUDA_LIBRARY = r"\(NEEDED\).*\[(lib(?:cu|nv|nccl)[^\]]*)\]"
UNVERSIONED = r"nccl|pnccl|cu[A-Z]|cuFile|cusparseLt|curand"


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def install_real(cuda: str) -> None:
    wanted = [f"{name}=={cuda}.*" for name in REAL]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *wanted], check=True)


def cuda_version() -> str | None:
    """The CUDA release that the installed PyTorch was built for, None for a CPU build."""
    for requirement in metadata.requires("torch") or []:
        if match := re.match(r"cuda-toolkit.*==(\d+\.\d+)", requirement):
            return match[1]
    return None


def write_stub(path: Path, symbols: set[str], version: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder) / "stub.c", Path(folder) / "stub.map"
        source.write_text("\n".join(f"int {symbol}(void) {{ return 1; }}" for symbol in sorted(symbols)))
        script.write_text(f"{version} {{ global: *; }};")
        versioned = [f"-Wl,--version-script={script}"] if version else []
        flags = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}"]
        subprocess.run(["gcc", *flags, *versioned, str(source), "-o", str(path)], check=True)


def main() -> None:
    cuda = cuda_version()
    if cuda is None:
        return
    install_real(cuda)
    libraries = Path(importlib.util.find_spec("torch").submodule_search_locations[0]) / "lib"
    target = libraries.parent.parent / "nvidia" / f"cu{cuda.partition('.')[0]}" / "lib"
    target.mkdir(parents=True, exist_ok=True)
    needed, by_version, unversioned = set(), defaultdict(set), set()
    for library in libraries.glob("*.so*"):
        needed |= set(re.findall(CUDA_LIBRARY, output("readelf", "-dW", str(library))))
        for line in output("nm", "-D", "--undefined-only", str(library)).splitlines():
            symbol, _, version = line.split()[-1].partition("@")
            if version:
                by_version[version].add(symbol)
            elif re.match(UNVERSIONED, symbol):
                unversioned.add(symbol)
    for name in sorted(name for name in needed if not (target / name).exists()):
        version = "NVSHMEM" if "nvshmem" in name else name
        known = version in by_version
        write_stub(target / name, by_version[version] if known else unversioned, version if known else None)
    print("CUDA libraries stood in for: PyTorch runs on the CPU alone")


if __name__ == "__main__":
    main()
