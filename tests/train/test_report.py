from __future__ import annotations

import io
import struct

import pytest
from rich.console import Console

from forwardgrad.errors import nearest
from forwardgrad.train.comparison import Contender
from forwardgrad.train.config import build_config
from forwardgrad.train.loop import Progress
from forwardgrad.train.picture import draw
from forwardgrad.train.record import Cost, Deeper, Entry, Point, Record, Run
from forwardgrad.train.report import Bars, kibibytes, results_table
from forwardgrad.train.summary import Spread, summarise

CONFIG = build_config({"task": "digits", "method": "spsa", "forwards": 30, "seeds": [0, 1]})
COST = Cost(forward_passes=3.0, peak_bytes=4096, tape_bytes=1024)


def finished(seed: int, accuracy: float) -> Run:
    curve = (
        Point(0, 0.0, 0.0, None, 2.3, 0.1),
        Point(5, 15.0, 0.5, 2.0, 1.5, 0.5),
        Point(10, 30.0, 1.0, 1.0, 0.9, accuracy),
    )
    return Run(seed, COST, curve, best_step=10, test_loss=1.0, test_accuracy=accuracy, weights="00")


def record() -> Record:
    config = CONFIG.model_dump(mode="json")
    runs = [finished(0, 0.8), finished(1, 0.9)]
    return Record(["forwardgrad"], [Entry("exact", config, runs), Entry("not yet", config)])


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def shown(thing: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    return console.file.getvalue()


def test_a_row_is_the_mean_and_spread_of_its_runs():
    (row,) = summarise(record().entries)  # an entry without a finished run has no row
    assert row.accuracy.mean == pytest.approx(0.85)
    assert row.accuracy.deviation == pytest.approx(0.0707, rel=1e-3)
    assert (row.steps, row.forwards, row.seconds, row.peak_bytes, row.tape_bytes) == (
        10,
        30.0,
        1.0,
        4096,
        1024,
    )


def test_a_single_seed_has_no_spread():
    assert Spread.over([0.5]) == Spread(0.5, None)
    assert Spread.over([0.5]).percent == "50.0 %"


def test_the_table_fits_a_narrow_terminal_and_says_everything():
    text = shown(results_table(record()))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("85.0 ± 7.1 %", "3.00", "30", "1.0 s", "4 KiB", "1 KiB", "2 seeds", "digits", "exact"):
        assert part in text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (2048, "2 KiB"), (50 * 2**20, "50 MiB")])
def test_bytes_are_readable(count, text):
    assert kibibytes(count) == text


@pytest.mark.parametrize("width", [80, 140])
def test_bars_follow_every_contender(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    rows = [Contender("first", CONFIG), Contender("second", CONFIG)]
    with Bars(console, rows) as bars:
        for seed in (0, 1):
            for point in finished(seed, 0.9).curve:
                bars.progress(1, seed, Progress(point.step, 10, COST, point))
            bars.finished(1, finished(seed, 0.9))
    last = console.file.getvalue()
    assert "second" in last and "2/2" in last and "90.0 %" in last


def test_a_single_method_has_two_curves_for_a_picture_and_a_comparison_its_memory_too():
    one = record()
    several = record()
    several.entries[1].runs.extend(several.entries[0].runs)
    deeper = record()
    deeper.entries = [
        Entry(label, CONFIG.model_dump(mode="json"), [finished(0, 0.8)], [Deeper(1, 4096, 0), Deeper(2, 8192, 0)])
        for label in ("exact", "estimate")
    ]
    pictures = [draw(one), draw(several), draw(deeper)]
    (width, low), (same, high), _ = map(size, pictures)
    assert width == same >= 1600 and 700 <= low < high
    assert pictures[1] != pictures[2]
    assert draw(record()) == pictures[0]  # the same record, the same picture


def test_near_names_are_suggested_and_far_ones_listed():
    assert "`momentum`" in nearest("momentun", ["lr", "momentum"])
    assert "`lr`, `momentum`" in nearest("zzz", ["momentum", "lr"])
