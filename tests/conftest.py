"""What every test starts from: one thread, a fixed seed, derandomised examples, data where there is any."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"

if DATA.is_dir():
    os.environ.setdefault("FORWARDGRAD_DATA", str(DATA))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models come from configurations, never from a hub
torch.set_num_threads(1)  # the test processes share the cores

hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and there is none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Whatever draws from torch's default generator draws the same in every run and order."""
    torch.manual_seed(0)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data sets; a test that asks for it is skipped where there is none."""
    folder = os.environ.get("FORWARDGRAD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set FORWARDGRAD_DATA")
    return Path(folder)
