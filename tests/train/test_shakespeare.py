from __future__ import annotations

import gzip
import math

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from forwardgrad.errors import DataError
from forwardgrad.train.config import build_config
from forwardgrad.train.loop import step_cost, train_run
from forwardgrad.train.tasks.gpt import Attention, Gpt
from forwardgrad.train.tasks.shakespeare import TinyShakespeare

SMALL = {"name": "tinyshakespeare", "context": 16, "heads": 2, "head_width": 8, "layers": 1, "batch_size": 8}
# 65 characters and a text made of them, so that the task runs where there is no data.
ALPHABET = "".join(map(chr, range(33, 98)))


def small(**settings) -> TinyShakespeare:
    return TinyShakespeare(**(SMALL | settings))


@pytest.fixture
def text(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    folder = tmp_path / "lm" / "tinyshakespeare"
    folder.mkdir(parents=True)
    content = ALPHABET * 40
    (folder / "input.txt.gz").write_bytes(gzip.compress(content.encode()))
    return content


def test_parts_are_stretches_of_the_text_that_share_no_target(text):
    splits = small().load()
    for (windows,) in splits:
        assert windows.shape[1] == 17
        assert torch.equal(windows[1:, 0], windows[:-1, -1])  # windows follow each other
    spelled = "".join(ALPHABET[i] for (windows,) in splits for i in windows[:, :-1].flatten().tolist())
    lengths = [len(windows) * 16 for (windows,) in splits]
    assert lengths[0] > 8 * lengths[1] > 0 and lengths[2] > 0
    assert spelled[: lengths[0]] == text[: lengths[0]]
    start = int(len(text) * 0.9)
    assert spelled[lengths[0] : sum(lengths[:2])] == text[start : start + lengths[1]]


def test_plain_text_serves_as_well(text, tmp_path):
    packed = small().load()
    folder = tmp_path / "lm" / "tinyshakespeare"
    (folder / "input.txt.gz").unlink()
    (folder / "input.txt").write_text(text)
    assert all(torch.equal(a, b) for (a,), (b,) in zip(packed, small().load(), strict=True))


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"too few letters"), gzip.compress(b"x" * 999)[:-9]],
    ids=["no gzip", "other letters", "cut"],
)
def test_another_text_is_a_data_error(text, tmp_path, content):
    (tmp_path / "lm" / "tinyshakespeare" / "input.txt.gz").write_bytes(content)
    with pytest.raises(DataError, match="whole text"):
        small().load()


def test_missing_text_says_which_file_belongs_where(tmp_path, monkeypatch):
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"input\.txt\.gz \(or input\.txt\)") as caught:
        small().load()
    assert caught.value.path == str(tmp_path / "lm" / "tinyshakespeare")


@pytest.mark.parametrize("tied", [True, False])
def test_the_net_is_decided_by_its_generator_and_starts_from_even_odds(tied):
    before = torch.get_rng_state()
    first, second, other = (small(tied=tied).build(Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.characters.weight, other.characters.weight)
    assert (first.output is None) == tied
    windows = torch.randint(65, (4, 17))
    assert float(small().loss(first, windows).detach()) == pytest.approx(math.log(65), rel=0.02)


def test_no_character_sees_the_ones_after_it():
    model = Gpt(65, 16, 16, 2, 2, 0.0, True, Generator().manual_seed(0)).double()
    tokens = torch.randint(65, (1, 16))
    changed = tokens.clone()
    changed[0, 9] = (tokens[0, 9] + 1) % 65
    difference = (model(tokens) - model(changed)).abs().amax(-1)[0]
    assert difference[:9].max() == 0 and difference[9:].min() > 0


def test_attention_is_attention_by_hand():
    attention = Attention(8, 2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    query, key, value = attention.read(x).split(8, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = query[..., head] @ key[..., head].mT / 2
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ value[..., head])
    assert torch.allclose(attention(x), attention.into(torch.cat(heads, -1)))


def test_the_score_is_the_mean_over_all_characters_and_keeps_the_mode():
    task = small(dropout=0.5)
    model = task.build(Generator().manual_seed(0)).train()
    windows = torch.randint(65, (150, 17))
    score = task.score(model, (windows,))
    assert model.training and score.accuracy is None
    expected = F.cross_entropy(model.eval()(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    assert score.loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("method", ["backprop", "checkpointed", "spsa", "forward", "control"])
def test_runs_with_dropout_repeat_bit_for_bit(text, method):
    tree = {"task": SMALL | {"dropout": 0.1}, "method": method, "steps": 4, "evaluations": 2}
    config = build_config(tree)
    splits = config.task.load()
    cost = step_cost(config, splits)
    first, second, other = (train_run(config, splits, seed, cost, lambda now: None) for seed in (0, 0, 1))
    assert first.weights == second.weights != other.weights


def test_training_lowers_the_loss(text):
    config = build_config({"task": SMALL, "method": "backprop", "steps": 60, "lr": 0.3})
    splits = config.task.load()
    run = train_run(config, splits, 0, step_cost(config, splits), lambda now: None)
    assert run.test_loss < 0.8 * math.log(65)


def test_the_real_text_has_its_characters(data_folder):
    if not (data_folder / "lm" / "tinyshakespeare").is_dir():
        pytest.skip("needs lm/tinyshakespeare")
    splits = TinyShakespeare().load()
    assert [len(windows) for (windows,) in splits] == [15685, 871, 871]
    assert int(splits.train[0].max()) == 64
