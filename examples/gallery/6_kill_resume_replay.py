"""
Kill it, resume it, replay it
=============================

A run is killed without warning, goes on from its last checkpoint, and ends with the same weights, bit for bit. Then the
weights are rebuilt a third time, from nothing but the slopes.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt

from forwardgrad.train.comparison import Contender, carry_on, compare
from forwardgrad.train.config import build_config
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import read_record
from forwardgrad.train.replay import logs, replay
from forwardgrad.train.report import Silence

plt.style.use("forwardgrad.train.look")
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)

# %%
# A process trains the digits from the command line, and saves a checkpoint every 100 steps. As soon as the second one
# is there the process gets a SIGKILL, which no program can catch.

command = [sys.executable, "-m", "forwardgrad", "train", "--quiet", "--out", str(folder / "killed")]
command += ["-k", "4", "--lr", "10", "--steps", "600", "--set", "checkpoints.every=100"]
process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
while len(list(folder.glob("killed/checkpoints/*.safetensors"))) < 2 and process.poll() is None:
    time.sleep(0.01)
process.kill()
process.wait()

record = read_record(folder / "killed" / "record.json")
saved = sorted(path.name for path in folder.glob("killed/checkpoints/*.safetensors"))
killed_at = int(saved[-1].partition("-step")[2].partition(".")[0])
print(f"killed after the checkpoint of step {killed_at}; finished runs in the record: {len(record.entries[0].runs)}")
assert not record.finished

# %%
# ``forwardgrad resume FOLDER`` is these lines. Beside it, the same run without an accident.

config = build_config(record.entries[0].config)
splits = config.task.load()
resumed = carry_on(record, splits, OutputFolder(folder / "killed"), Silence()).entries[0].runs[0]

(folder / "whole").mkdir()
whole = compare([Contender("whole", config)], splits, OutputFolder(folder / "whole"), Silence()).entries[0].runs[0]
assert resumed.weights == whole.weights, "the same bits"
assert [p.validation_loss for p in resumed.curve] == [p.validation_loss for p in whole.curve]

# %%
# ``forwardgrad replay FOLDER`` needs neither data nor a forward pass: tangents come again from the keys, and K slopes a
# step do the rest.

(log,) = logs(folder / "killed")
again = replay(log)
assert again.weights == whole.weights, "the same bits from the slopes alone"
print(f"SHA-256 of the weights, three times: {again.weights[:16]}...")

sizes = {
    "one checkpoint": max(path.stat().st_size for path in folder.glob("killed/checkpoints/*.safetensors")),
    "replay log of all 600 steps": log.stat().st_size,
}
assert sizes["replay log of all 600 steps"] < sizes["one checkpoint"]
scratch.cleanup()

# %%
# The two curves coincide. The dashed line is the checkpoint from which the killed run went on.

fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), width_ratios=(1.8, 1))
for run, colour, width, label in ((whole, "#56B4E9", 8, "never killed"), (resumed, "#0072B2", 2, "killed and resumed")):
    left.plot([p.step for p in run.curve], [p.validation_loss for p in run.curve], color=colour, lw=width, label=label)
left.axvline(killed_at, color="#D55E00", ls="--", lw=1.5)
left.annotate(f"SIGKILL after step {killed_at}", (killed_at, 1.9), (8, 0), textcoords="offset points", color="#D55E00")
left.set(title="Validation loss", xlabel="step", ylim=(0, 2.5))
left.legend(loc="upper right")

bars = right.barh(list(sizes), [size / 1024 for size in sizes.values()], height=0.45, color=["#8a8a8a", "#009E73"])
right.bar_label(bars, fmt=" {:,.0f} KiB", color="#666666")
right.set(title="What it takes to go on", xlim=(0, 1.3 * max(sizes.values()) / 1024), xticks=[])
right.set_ylim(-1, 2)
right.grid(visible=False)
plt.show()
