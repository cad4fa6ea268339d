"""The report as a browser shows it: no error, no request, every chart with its lines, nothing wider than a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from forwardgrad.errors import CheckpointError
from forwardgrad.train.comparison import RECORD_NAME
from forwardgrad.train.config import build_config
from forwardgrad.train.page import render, sources_of
from forwardgrad.train.page.charts import _apart, number, share
from forwardgrad.train.page.sections import Source, sections
from forwardgrad.train.record import Cost, Entry, Failure, Point, Record, Run, read_record

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --virtual-time-budget=5000"
).split()
ASK = """<script>
addEventListener("load", () => {
  const all = (where) => [...document.querySelectorAll(where)], charts = {};
  for (const chart of all(".chart")) {
    const parts = (kind) => chart.querySelectorAll(`.drawing .${kind}[data-row]`).length;
    charts[chart.dataset.chart] = parts("line") || parts("dot");
  }
  const page = document.documentElement, chart = document.querySelector(".chart"), button = all(".legend button")[0];
  const svg = chart.querySelector("svg"), [row, x, y, text] = JSON.parse(chart.querySelector("script").textContent)[3];
  const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
  const move = () => chart.querySelector(".drawing").dispatchEvent(
    new PointerEvent("pointermove", {clientX: at.x, clientY: at.y}));
  move();
  const tip = chart.querySelector(".tip")?.textContent;
  button.click();
  move();
  const seen = {
    charts, tip, text, width: innerWidth, needed: page.scrollWidth,
    wide: all("main *").filter((one) => !one.closest(".drawing, pre"))
      .filter((one) => one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80)),
    requests: performance.getEntriesByType("resource").length,
    off: all('.drawing [data-row="0"].line').filter((one) => getComputedStyle(one).display !== "none").length,
    tipAfter: chart.querySelector(".tip")?.textContent ?? null,
    small: Math.min(...all(".drawing text").filter((one) => one.getBoundingClientRect().width)
      .map((one) => one.getBoundingClientRect().height)),
  };
  parent.postMessage(JSON.stringify(seen), "*");
});
</script></body>"""
# A window cannot be as narrow as a phone, but a frame in it can.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><body style="margin: 0">
<script>
addEventListener("message", (event) => {
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = event.data;
  document.body.append(answer);
});
</script>
<iframe style="border: 0; width: WIDTHpx; height: 1600px" srcdoc="PAGE"></iframe></body>"""


def curve(scale: float, *, exact: bool, accuracy: bool = True) -> tuple[Point, ...]:
    points = []
    for place in range(6):
        loss = scale * 2.3 / (1 + place)
        slopes = (None, None, None) if exact or not place else (0.01 * place, loss, 30.0 / scale)
        probe = (1.0, 1e-15) if exact else (0.1 / scale, 40.0 * scale)
        right = 0.1 + 0.15 * place / scale if accuracy else None
        points.append(
            Point(10 * place, 30.0 * place, 0.1 * place, loss if place else None, loss, right, *slopes, *probe)
        )
    return tuple(points)


def entry(label: str, tree: dict, scale: float, seeds: int = 2, *, accuracy: bool = True) -> Entry:
    config = build_config({"task": "digits", "steps": 50, "seeds": [0, 1]} | tree).resolved()
    exact = config.method.name == "backprop"
    runs = []
    for seed in range(seeds):
        one = curve(scale * (1 + 0.05 * seed), exact=exact, accuracy=accuracy)
        cost = Cost(3.0, int(50_000 * scale), 1024 if exact else 0)
        runs.append(Run(seed, cost, one, 50, one[-1].validation_loss, one[-1].validation_accuracy, "00"))
    return Entry(label, config.model_dump(mode="json"), runs)


def record() -> Record:
    return Record(
        ["forwardgrad", "compare", "--out", "<folder>"],
        [
            entry("exact", {"method": "backprop"}, 1.0),
            entry("K=1 <b>&amp; 'quoted'</b>", {"method": "forward"}, 1.6),
            entry("a control variate with a name of some length", {"method": "control"}, 1.2, seeds=1),
            entry("not begun", {"method": "spsa"}, 1.0, seeds=0),
        ],
    )


def saved(folder: Path, one: Record) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_NAME).write_bytes(one.to_json())
    return folder


def browse(page: bytes, folder: Path, width: int, *, dark: bool = False) -> tuple[dict, Path]:
    """What the page holds once it is open, and a screenshot; console messages are errors."""
    if BROWSER is None:
        pytest.skip("needs Chromium or Chrome on the path, and there is none")
    file, shot = folder / "asked.html", folder / "shot.png"
    inside = html.escape(page.decode().replace("</body>", ASK))
    file.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", inside))
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},1600"]
    if dark:
        command.append("--blink-settings=preferredColorScheme=0")
    dumped, shown = (
        subprocess.run([*command, *more, file.as_uri()], capture_output=True, text=True, timeout=120)
        for more in (["--dump-dom"], [f"--screenshot={shot}"])
    )
    for done in (dumped, shown):
        assert done.returncode == 0 and "CONSOLE" not in done.stderr, done.stderr
    answer = re.search(r'<pre id="answer">(.*?)</pre>', dumped.stdout, re.DOTALL)
    assert answer, "the page's own script did not get that far"
    return json.loads(html.unescape(answer[1])), shot


LINES = {
    "accuracy": 3, "loss-forwards": 3, "loss-time": 3, "training": 3, "memory": 3,
    "cosine": 2, "variance": 2, "slope-spread": 2, "slope-mean": 2, "ratio": 2,
}  # fmt: skip


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (400, True)], ids=["wide, light", "narrow, dark"])
def test_a_browser_shows_every_chart_without_error_request_or_overflow(tmp_path, width, dark):
    from PIL import Image

    seen, shot = browse(render([Source(tmp_path, record())]), tmp_path, width, dark=dark)
    assert seen["charts"] == LINES  # exact methods have no slopes, and are left out beside estimates of the gradient
    assert seen["width"] == width
    assert (seen["needed"] <= width, seen["wide"]) == (True, [])
    assert seen["requests"] == 0
    assert seen["tip"] == seen["text"] and "exact: " in seen["tip"]
    assert seen["off"] == 0 and "exact" not in (seen["tipAfter"] or "")  # a click on its name took it away
    assert seen["small"] >= 9  # pixels: words in charts can be read
    with Image.open(shot) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
        background = picture.convert("L").getpixel((2, 2))
        assert picture.width >= width
    assert (background < 60) == dark
    assert (0xE6, 0x9F, 0x00) in colours  # the first estimate's colour, whatever the theme


def test_a_page_is_one_file_that_asks_for_nothing(tmp_path):
    text = render([Source(tmp_path, record())]).decode()
    assert "http:" not in text and "https:" not in text
    assert not re.search(r"<(link|img|iframe|script)[^>]*(src|href)=(?!.data:)", text)
    assert "default-src 'none'" in text
    assert len(text) < 400_000
    assert "K=1 <b>" not in text and "K=1 &lt;b&gt;&amp;amp;" in text  # labels are words, not markup
    for words in ("num_tangents: 1", "&lt;folder&gt;", "torch", "3 runs still to come", "± 0.0"):
        assert words in text, words


def test_a_record_of_an_older_version_can_be_read_and_has_the_charts_it_has_figures_for(tmp_path):
    tree = json.loads(record().to_json())
    new = {"slope_mean", "slope_deviation", "gradient_ratio", "cosine", "probe_error"}
    for one in tree["entries"]:
        for run in one["runs"]:
            run["curve"] = [{key: value for key, value in point.items() if key not in new} for point in run["curve"]]
    (tmp_path / RECORD_NAME).write_text(json.dumps(tree))
    (section,) = sections(sources_of([tmp_path]))
    assert [chart.name for chart in section.charts] == list(LINES)[:5]
    assert read_record(tmp_path / RECORD_NAME).entries[0].runs[0].curve[1].slope_mean is None


def test_runs_of_several_folders_stand_side_by_side_by_task(tmp_path):
    other = Record(["forwardgrad"], [entry("forward", {"method": "forward", "task": "beale"}, 1.0, accuracy=False)])
    folders = [saved(tmp_path / "a", record()), saved(tmp_path / "b", record()), saved(tmp_path / "c", other)]
    digits, beale = sections(sources_of(folders))
    assert [row.label for row in digits.rows][::3] == ["a: exact", "b: exact"]
    assert len({(row.colour, row.dashes) for row in digits.rows}) == 6
    assert [chart.name for chart in beale.charts][:2] == ["loss-forwards", "loss-time"]  # there is no accuracy
    assert digits.charts[4].crop == 1 and 'class="name"' in digits.charts[4].svg  # labels beside the dots
    (crowded,) = sections(sources_of([*folders[:2], saved(tmp_path / "d", record())]))
    assert crowded.charts[4].crop > 1 and crowded.charts[4].svg.count('class="label"') == 9  # labels in a column
    assert digits.extent == "6 methods, 1 to 2 seeds, 150 forward passes each"
    assert beale.extent == "1 method, 2 seeds, 150 forward passes"
    page = render(sources_of(folders))
    assert page.count(b'class="task"') == 2 and page.count(b"<svg") == len(digits.charts) + len(beale.charts)


def test_seeds_that_ended_at_different_places_share_what_they_have(tmp_path):
    one = record()
    first = one.entries[0].runs[0]
    one.entries[0].runs[0] = replace(first, curve=first.curve[:4])
    assert '"exact: 56.7 %' not in render([Source(tmp_path, one)]).decode()
    (section,) = sections([Source(tmp_path, one)])
    assert sum(row == 0 for row, *_ in section.charts[0].points) == 4


def test_a_method_that_failed_is_told_and_not_drawn(tmp_path):
    one = record()
    one.entries[1].failure = Failure("diverged", "the loss is <NaN>")
    (section,) = sections([Source(tmp_path, one)])
    assert [row.label for row in section.rows] == [one.entries[0].label, one.entries[2].label]
    assert len(section.charts[0].points) == 2 * len(one.entries[0].runs[0].curve)
    assert "diverged:</strong> the loss is &lt;NaN&gt;" in render([Source(tmp_path, one)]).decode()


def test_a_folder_without_a_finished_run_has_no_report(tmp_path):
    with pytest.raises(CheckpointError, match="finished run") as caught:
        render([Source(tmp_path, Record([], [entry("exact", {"method": "backprop"}, 1.0, seeds=0)]))])
    assert caught.value.path == str(tmp_path)


def test_labels_move_apart_and_stay_inside():
    assert _apart([10.0, 100.0], 0, 200) == [10.0, 100.0]
    placed = _apart([50.0, 50.0, 50.0, 199.0], 0, 200)
    assert placed[:3] == [36.0, 50.0, 64.0] and placed[3] == 199.0
    crowded = _apart([199.0] * 4, 0, 200)
    assert crowded[-1] == 200 and all(b - a >= 13.9 for a, b in pairwise(crowded))
    assert all(0 <= height <= 20 for height in _apart([5.0] * 9, 0, 20))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1234567.0, "1,234,567"), (0.12345, "0.1235"), (2e-5, "2.0e-05"), (-3.5, "-3.5")]
)
def test_numbers_are_readable(value, text):
    assert number(value) == text
    assert (share(0.5), share(0.987)) == ("50 %", "98.7 %")
