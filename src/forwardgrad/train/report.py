"""What a command shows on the terminal: moving bars while it trains, a table when it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from forwardgrad.train.comparison import Contender
from forwardgrad.train.loop import Progress as Place
from forwardgrad.train.record import Failure, Point, Record, Run
from forwardgrad.train.summary import styles, summarise
from forwardgrad.train.tasks import TASKS

# What a bar shows, in order, and the width of the terminal from which there is room for it.
_COLUMNS: tuple[tuple[int, Callable[[int], ProgressColumn]], ...] = (
    (0, lambda width: TextColumn("{task.description}")),
    (60, lambda width: BarColumn(bar_width=10 if width < 170 else 30)),
    (70, lambda width: TextColumn("[dim]seed[/] {task.fields[seed]}")),
    (0, lambda width: TextColumn("[dim]loss[/] {task.fields[loss]}")),
    (0, lambda width: TextColumn("{task.fields[accuracy]}")),
    (132, lambda width: TextColumn("[dim]slope[/] {task.fields[slope]}")),
    (148, lambda width: TextColumn("[dim]norm ratio[/] {task.fields[ratio]}")),
    (112, lambda width: TextColumn("[dim]peak[/] {task.fields[peak]}")),
    (100, lambda width: TextColumn("[dim]{task.fields[speed]}")),
    (50, lambda width: TimeRemainingColumn(compact=True, elapsed_when_finished=True)),
)


class Silence:
    """A watcher that shows nothing."""

    def progress(self, row: int, seed_index: int, now: Place) -> None:
        """Says nothing."""

    def finished(self, row: int, run: Run) -> None:
        """Says nothing."""

    def trying(self, row: int, trial: int, trials: int, now: Place) -> None:
        """Says nothing."""

    def failed(self, row: int, failure: Failure) -> None:
        """Says nothing."""


class Bars:
    """A watcher with one bar per contender; use as a context manager.

    Args:
        console: where to draw.
        contenders: the rows.
    """

    def __init__(self, console: Console, contenders: Sequence[Contender]) -> None:
        columns = [make(console.width) for least, make in _COLUMNS if console.width >= least]
        self._bars = Progress(*columns, console=console)
        colours = styles([one.config.model_dump(mode="json") for one in contenders])
        self._ids = [self._add(colour, one) for (colour, _), one in zip(colours, contenders, strict=True)]

    def _add(self, colour: str, contender: Contender) -> TaskID:
        num_seeds = len(contender.config.seeds)
        return self._bars.add_task(
            f"[{colour}]●[/] {contender.label}",
            total=num_seeds,
            start=False,
            seed=f"-/{num_seeds}",
            loss="     -",
            accuracy="     -",
            slope="-",
            ratio="-",
            peak="-",
            speed="",
            num_seeds=num_seeds,
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def progress(self, row: int, seed_index: int, now: Place) -> None:
        """Moves the contender's bar and its figures."""
        total = self._bars.tasks[row].fields["num_seeds"]
        self._move(row, f"{seed_index + 1}/{total}", seed_index + now.step / now.steps, total, now)

    def trying(self, row: int, trial: int, trials: int, now: Place) -> None:
        """Moves the contender's bar through its trials; it begins again with the runs."""
        self._move(row, f"trial {trial + 1}/{trials}", trial + now.step / now.steps, trials, now)

    def failed(self, row: int, failure: Failure) -> None:
        """Says so above the bars."""
        self._bars.console.print(f"{self._bars.tasks[row].description} {failure.short}: {failure.sentence}")

    def _move(self, row: int, place: str, completed: float, total: int, now: Place) -> None:
        if not self._bars.tasks[row].started:
            self._bars.start_task(self._ids[row])
        point = now.point
        loss = point.validation_loss if point.train_loss is None else point.train_loss
        speed = f"{point.forwards / point.seconds:,.0f} forwards/s" if point.seconds else ""
        self._bars.update(
            self._ids[row],
            completed=completed,
            total=total,
            seed=place,
            loss=f"{loss:.4f}",
            accuracy="" if point.validation_accuracy is None else f"{100 * point.validation_accuracy:4.1f} %",
            slope=slopes(point),
            ratio="-" if point.gradient_ratio is None else f"{point.gradient_ratio:.3g}",
            peak=kibibytes(now.cost.peak_bytes),
            speed=speed,
        )

    def finished(self, row: int, run: Run) -> None:
        """Leaves the bar where the last report put it."""


def results_table(record: Record) -> Table:
    """The table a comparison ends with: accuracy (or loss) with its spread, and what it cost."""
    rows = summarise(record.entries)
    figure = "loss" if any(row.accuracy is None for row in rows) else "accuracy"
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title=_title(record))
    table.title_justify = table.caption_justify = "left"
    table.caption = (
        f"{figure.capitalize()}: mean ± standard deviation over seeds, on the test part, of the weights that did best "
        "on the validation part. Forwards: forward passes, counted by FLOPs. Peak and tape: bytes of one "
        f"step, over weights and batch. {_remark(record)}"
    ).rstrip()
    table.add_column("method")
    for heading in (f"test\n{figure}", "forwards\nper step", "forwards\nin all", "wall\ntime", "peak", "tape"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = max((row.merit for row in rows), default=0.0)
    for row in rows:
        table.add_row(
            f"[{row.colour}]●[/] {row.label}",
            f"[bold]{row.result}[/]" if row.merit == best else row.result,
            f"{row.forwards_per_step:.2f}",
            f"{row.forwards:,.0f}",
            f"{row.seconds:.1f} s",
            kibibytes(row.peak_bytes),
            kibibytes(row.tape_bytes),
        )
    return table


def slopes(point: Point) -> str:
    """Mean and standard deviation of the slopes before a point; a dash where there are none."""
    if point.slope_mean is None:
        return "-"
    spread = "" if point.slope_deviation is None else f" ± {point.slope_deviation:.2g}"
    return f"{point.slope_mean:+.2g}{spread}"


def kibibytes(count: int) -> str:
    """A byte count a person can read."""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:,.0f} KiB" if count < 10 * 1024**2 else f"{count / 1024**2:,.0f} MiB"


def _remark(record: Record) -> str:
    # A record may come from a version that knew other tasks.
    task = TASKS.get(record.entries[0].config["task"]["name"])
    return task.remark if task else ""


def _title(record: Record) -> str:
    config = record.entries[0].config
    seeds = len(config["seeds"])
    return f"{config['task']['name']}, {seeds} seed{'s' if seeds > 1 else ''}"
