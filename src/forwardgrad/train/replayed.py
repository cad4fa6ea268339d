"""What `forwardgrad replay` says of a log, and the weights it saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from forwardgrad.errors import CheckpointError
from forwardgrad.train.comparison import RECORD_NAME, threads
from forwardgrad.train.config import build_config
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import Run, read_record
from forwardgrad.train.replay import logs, obstacle_of, replay
from forwardgrad.train.replaylog import FOLDER, read


def replay_row(path: Path, save_to: Path | None) -> dict[str, Any]:
    """Replays one log, and holds the weights against the record beside it.

    Args:
        path: of the log.
        save_to: folder for the weights; None to keep them to itself.

    Returns:
        method, seed, step, steps, kilobytes of the log, weights (their checksum), and matches: True, or None where
        the record does not have the run yet.

    Raises:
        CheckpointError: the log cannot be read, or leads to other weights than the run had.
        OutputError: the weights cannot be saved.
    """
    header = read(path).header
    with threads(build_config(header.config).threads):
        replayed = replay(path)
    run = _recorded(path, header.seed)
    if run is not None and run.weights != replayed.weights:
        needs, cure = "a replay needs the log and the PyTorch of its run", "use the checkpoint of the run"
        raise CheckpointError(needs, f"other weights than the record after {replayed.step} steps", cure, str(path))
    if save_to is not None:
        state = {name: tensor.clone() for name, tensor in replayed.model.state_dict().items()}
        OutputFolder(save_to).probe().write(f"{path.stem}.safetensors", save(state))
    return {
        "method": header.label,
        "seed": header.seed,
        "step": replayed.step,
        "steps": header.steps,
        "kilobytes": replayed.log.num_bytes / 1000,
        "weights": replayed.weights,
        "matches": True if run is not None else None,
    }


def unlogged(folder: Path) -> list[str]:
    """A sentence for every run of a record that has no replay log, with the reason.

    Args:
        folder: that `--out` named; a folder without a record has nothing to say.

    Raises:
        CheckpointError: the record cannot be read.
    """
    if not (folder / RECORD_NAME).exists():
        return []
    said, known = [], {path.stem for path in logs(folder)}
    for row, entry in enumerate(read_record(folder / RECORD_NAME).entries):
        config = build_config(entry.config)
        missing = [seed for seed in config.seeds if f"{row}-seed{seed}" not in known]
        if not missing:
            continue
        begun = [seed for seed in missing if any(run.seed == seed for run in entry.runs)]
        reason = obstacle_of(config) or ("its log is gone" if begun else "it has not begun")
        seeds = ", ".join(map(str, missing))
        said.append(f"{entry.label}, seed {seeds}: no replay, since {reason}; its checkpoints hold the weights")
    return said


def nothing_to_replay(folder: Path, reasons: Sequence[str]) -> CheckpointError:
    """The error of a folder without a single replay log.

    Args:
        folder: that `--out` named.
        reasons: from `unlogged`.
    """
    cure = "name the folder of a ForwardGradient or SPSA run, or take the weights from `checkpoints`"
    found = f"none ({'. '.join(reasons)})" if reasons else "none"
    return CheckpointError("a replay needs the log of a run", found, cure, path=str(folder / FOLDER))


def _recorded(path: Path, seed: int) -> Run | None:
    """The run of a log in the record of its folder."""
    place = path.resolve().parent.parent / RECORD_NAME
    if not place.exists():
        return None
    entry = read_record(place).entries[int(path.stem.partition("-")[0])]
    return next((run for run in entry.runs if run.seed == seed), None)
