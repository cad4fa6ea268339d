from __future__ import annotations

import dataclasses
import io
import re
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
from forwardgrad.train.summary import Spread, styles, summarise

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


POINT = Point(10, 3000.0, 1.5, 1.0, 0.9, 0.75, slope_mean=0.0123, slope_deviation=1.5, gradient_ratio=22.81)
FIGURES = {
    "12.3": 0, "75.0 %": 0, "--:--": 50, "━": 60, "1/2": 70, "2,000 forwards/s": 100, "4 KiB": 112, "+0.012 ± 1.5": 132,
    "22.8": 148,
}  # fmt: skip


@pytest.mark.parametrize("width", [45, 55, 65, 75, 105, 120, 140, 160, 200])
def test_narrow_terminals_drop_columns_and_no_line_is_broken(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with Bars(console, [Contender("control variate K=16", CONFIG)]) as bars:
        bars.progress(0, 0, Progress(10, 20, COST, dataclasses.replace(POINT, train_loss=12.3)))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    plain = [line for line in re.split(r"[\r\n]+", shown) if line.strip()][-1]
    for figure, least in FIGURES.items():
        assert (figure in plain) == (width >= least), (figure, plain)
    assert len(plain) <= width and "…" not in plain


def test_exact_methods_are_grey_and_no_two_rows_look_alike():
    of = lambda *names: styles([{"method": {"name": name}} for name in names])
    demo = of("backprop", "checkpointed", "checkpointed", "spsa", "forward", "forward", "control")
    assert [colour for colour, _ in demo[:3]] == ["#2b2b2b", "#8a8a8a", "#8a8a8a"] and demo[2][1] == "--"
    assert len(set(demo)) == 7 and not {"#2b2b2b", "#8a8a8a"} & {colour for colour, _ in demo[3:]}
    assert len(set(of(*["forward"] * 18))) == 18
    assert len(of(*["forward"] * 30)) == 30  # beyond that, colours repeat


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
