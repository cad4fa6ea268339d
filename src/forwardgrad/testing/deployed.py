"""A Flower federation as it is deployed: a SuperLink, SuperNodes and `flwr run`, on the loopback interface."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_HOST = "127.0.0.1"
_ENDING = 1.0  # seconds that the processes of an ended one have to end too
_APP = """
from pathlib import Path
import torch
from {module} import {setting}, apps

class Kept(list):
    def extend(self, tensors):
        torch.save(list(tensors), Path({out!r} + ".part"))
        Path({out!r} + ".part").rename({out!r})  # there at once, and whole

both = apps({setting_text}, {seed}, Kept())
server = both[0]  # each by its own assignment, as Flower's check of an app wants it
client = both[1]
"""
_PROJECT = """
[project]
name = "spry"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "forwardgrad"

[tool.flwr.app.components]
serverapp = "spry_app:server"
clientapp = "spry_app:client"
"""
_HOME = """
[superlink]
default = "loopback"

[superlink.loopback]
address = "{address}"
insecure = true
"""


def run_deployed(
    module: str, setting: Any, seed: int, nodes: int, tell: Callable[[str], None], limit: float = 540.0
) -> tuple[list[Tensor], dict[str, float]]:
    """What the ServerApp handed over at its end, and the bytes that went over the loopback interface meanwhile.

    The bytes are those of everything that used the interface: HTTP, heartbeats and polling among them.

    Args:
        module: has ``apps(setting, seed, final) -> (server, client)``; the server calls ``final.extend(tensors)``.
        setting: a dataclass of plain values in that module.
        seed: for `apps`.
        nodes: SuperNodes.
        tell: hears of progress.
        limit: seconds after which all is ended.

    Raises:
        RuntimeError: the run did not finish; with the end of its log.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        out, home, app = folder / "final.pt", folder / "home", folder / "app"
        home.mkdir()
        app.mkdir()
        api, *ports = _free_ports(1 + nodes)
        (home / "config.toml").write_text(_HOME.format(address=f"{_HOST}:{api}"))
        (app / "pyproject.toml").write_text(_PROJECT)
        names = {"module": module, "setting": type(setting).__name__, "setting_text": repr(setting)}
        (app / "spry_app.py").write_text(_APP.format(out=str(out), seed=seed, **names))
        environment = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        start = lambda *command: running.enter_context(_ended(command, folder, environment))
        link = ["--insecure", "--host", _HOST, "--port", str(api), "--disable-runtime-dependency-installation"]
        start("flower-superlink", *link)
        _wait_for(api, limit)
        for i, port in enumerate(ports):
            config = f"partition-id={i} num-partitions={nodes}"
            where = ["--insecure", "--superlink", f"{_HOST}:{api}", "--port", str(port), "--node-config", config]
            start("flower-supernode", *where)
        tell(f"a SuperLink and {nodes} SuperNodes")
        begun, before = time.monotonic(), _loopback()
        run = start("flwr", "run", str(app), "loopback", "--stream")
        while run.poll() is None and time.monotonic() - begun < limit:  # it ends when the run does, well or not
            time.sleep(0.5)
        if not out.exists():
            logs = "\n".join(path.read_text()[-1500:] for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"no weights from the run on the loopback interface:\n{logs}")
        took = {"seconds": time.monotonic() - begun, "loopback_bytes": float(_loopback() - before)}
        return torch.load(out, weights_only=True), took


@contextmanager
def _ended(command: tuple[str, ...], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, with what it has started, whatever happens."""
    with (folder / f"{time.monotonic_ns()}.{command[0]}.log").open("w") as log:
        # A session of its own, since a SuperNode starts processes too, and they are to end with it.
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
                time.sleep(_ENDING)


def _wait_for(port: int, limit: float) -> None:
    """Until somebody answers at a port; what cannot connect later says so itself."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection((_HOST, port), timeout=1.0):
            return
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _loopback() -> int:
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())
