"""Runs an experiment, seed by seed; what is finished is saved at once, so that a killed run goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from time import perf_counter

import torch

from forwardgrad.claims.claim import Claim, Tell, Tier
from forwardgrad.claims.fingerprint import fingerprint
from forwardgrad.claims.record import ClaimRecord, SeedRecord, file_name, read_record
from forwardgrad.errors import InputError, NonFiniteError
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.record import versions
from forwardgrad.train.threads import threads


def run(claim: Claim, tier: Tier, output: OutputFolder, tell: Tell) -> ClaimRecord:
    """The claim's record at a tier: seeds that are there stay where code and setting are the same, the rest is run.

    Args:
        claim: from the ledger.
        tier: must be among the claim's settings.
        output: a folder that is ready; the record in it is replaced after every seed.
        tell: hears of progress.

    Raises:
        InputError: the claim has no such tier, or its experiment lacks a figure that a check names.
        NonFiniteError: a figure is NaN.
        OutputError: the record cannot be written.
        CheckpointError: a record is there that cannot be read.
    """
    if tier not in claim.settings:
        found, cure = f"none named {tier}", f"choose {' or '.join(claim.settings)}"
        raise InputError("a run needs one of the claim's tiers", found, cure, path=claim.id)
    fresh = ClaimRecord(
        claim=claim.id,
        tier=tier,
        setting=asdict(claim.settings[tier]),
        fingerprint=fingerprint(claim),
        versions=versions() | versions(_distributions(claim)),
    )
    record = _continued(fresh, output)
    for seed in claim.seeds_of(tier):
        if seed in record.runs:
            continue
        begun = perf_counter()
        with torch.random.fork_rng(devices=[]), threads(1):  # sums are split by threads, and small nets wait for them
            torch.manual_seed(seed)  # so that an experiment that forgets its seed is repeatable all the same
            finding = claim.experiment(claim.settings[tier], seed, partial(_of_seed, tell, seed))
        _check(claim, finding.figures)
        record.runs[seed] = SeedRecord.model_validate(asdict(finding) | {"seconds": round(perf_counter() - begun, 1)})
        output.write(file_name(claim.id, tier), (record.model_dump_json(indent=1) + "\n").encode())
    return record


def _distributions(claim: Claim) -> tuple[str, ...]:
    """The packages that it imports, as they are called where they are installed from."""
    known = packages_distributions() if claim.packages else {}
    return tuple(known.get(name, [name])[0] for name in claim.packages)


def _of_seed(tell: Tell, seed: int, text: str) -> None:
    tell(f"seed {seed}: {text}")


def lacking(claim: Claim) -> str:
    """What an experiment needs and this installation has not, with its cure; empty where it has all."""
    missing = {name: extra for name, extra in claim.packages.items() if find_spec(name) is None}
    extras = ",".join(dict.fromkeys(missing.values()))
    return f"{claim.id} needs {' and '.join(missing)}; pip install forwardgrad[{extras}]" if missing else ""


def unavailable(tier: Tier) -> str:
    """Why a tier cannot run on this machine; empty where it can."""
    if tier == "gpu" and not torch.cuda.is_available():
        return "no CUDA device here"
    return ""


def _continued(fresh: ClaimRecord, output: OutputFolder) -> ClaimRecord:
    path = output.path / file_name(fresh.claim, fresh.tier)
    if not path.exists():
        return fresh
    old = read_record(path)
    # As JSON on both sides: a file knows no tuples.
    decided = lambda record: record.model_dump(mode="json", include={"fingerprint", "versions", "setting"})
    return old if decided(old) == decided(fresh) else fresh


def _check(claim: Claim, figures: Mapping[str, float]) -> None:
    for check in claim.checks:
        if check.figure not in figures:
            known = ", ".join(figures)
            raise InputError(f"the check {check} needs its figure", known, "let the experiment return it", claim.id)
    for name, value in figures.items():
        if math.isnan(value):
            raise NonFiniteError("a verdict needs figures", f"{name} = NaN", "mend the experiment", path=claim.id)
