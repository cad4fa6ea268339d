"""Fetching with loaders that need no network."""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import wave
from types import SimpleNamespace
from urllib.error import URLError
from zipfile import ZipFile

import numpy as np
import pytest
from typer.testing import CliRunner

from forwardgrad.cli import app
from forwardgrad.errors import ConfigError, DataError, MissingExtraError, OutputError
from forwardgrad.train import fetchers
from forwardgrad.train.fetch import fetch, fetcher_of
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.tasks.cifar10 import ORIGINAL
from forwardgrad.train.tasks.idx import read_idx
from forwardgrad.train.tasks.pictures import read_archive
from forwardgrad.train.tasks.recordings import read
from forwardgrad.train.tasks.texts import read_texts

TEXT = gzip.compress(b"".join(bytes([33 + i % 65]) for i in range(9000)), mtime=0)


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("FORWARDGRAD_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def shakespeare(load=lambda scratch: {"input.txt.gz": TEXT}) -> fetchers.Fetcher:
    known = fetcher_of("tinyshakespeare")
    return fetchers.Fetcher(known.files, "nowhere", load)


@pytest.fixture
def faked(monkeypatch):
    """The text of tinyshakespeare comes from a fake; returns how often it was asked."""
    asked = []

    def load(scratch):
        asked.append(scratch)
        assert scratch.is_dir()
        return {"input.txt.gz": TEXT}

    monkeypatch.setitem(fetchers.FETCHERS, "tinyshakespeare", shakespeare(load))
    return asked


def invoke(*arguments):
    return CliRunner().invoke(app, ["data", "fetch", *arguments])


def test_what_is_fetched_is_found_by_the_task_and_fetched_once(faked, empty):
    result = invoke("tinyshakespeare")
    assert result.exit_code == 0 and "fetched.json" in result.output, result.output
    assert len(fetcher_of("tinyshakespeare").files.find("tinyshakespeare").parts) > 2
    assert "Already there" in invoke("tinyshakespeare").output and len(faked) == 1
    assert not faked[0].exists()


def test_without_the_variable_a_cache_folder_serves(faked, tmp_path, monkeypatch):
    monkeypatch.delenv("FORWARDGRAD_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = fetcher_of("tinyshakespeare").files
    with pytest.raises(DataError, match=r"FORWARDGRAD_DATA.*unset.*forwardgrad data fetch tinyshakespeare"):
        files.find("tinyshakespeare")
    shown = invoke("tinyshakespeare").output.replace("\n", "")
    folder = tmp_path / "cache" / "forwardgrad" / "lm" / "tinyshakespeare"
    assert str(folder) in shown and files.find("tinyshakespeare") == folder and files.look().present


def test_other_bytes_than_were_fetched_are_noticed_and_fetched_again(faked, empty):
    invoke("tinyshakespeare")
    path = empty / "lm" / "tinyshakespeare" / "input.txt.gz"
    path.write_bytes(TEXT[:-1])
    with pytest.raises(DataError, match=r"other bytes.*data fetch tinyshakespeare") as caught:
        fetcher_of("tinyshakespeare").files.find("tinyshakespeare")
    assert caught.value.path == str(path)
    assert invoke("tinyshakespeare").exit_code == 0 and path.read_bytes() == TEXT
    path.with_name("fetched.json").write_text("{")
    with pytest.raises(DataError, match="damaged list"):
        fetcher_of("tinyshakespeare").files.find("tinyshakespeare")


def test_files_put_there_by_hand_are_taken_as_they_are(empty):
    folder = empty / "lm" / "tinyshakespeare"
    folder.mkdir(parents=True)
    (folder / "input.txt").write_text("mine")
    assert fetcher_of("tinyshakespeare").files.find("tinyshakespeare") == folder
    assert "Already there" in invoke("tinyshakespeare").output


@pytest.mark.parametrize("error", [KeyboardInterrupt(), URLError("no route"), ValueError("hash differs")], ids=repr)
def test_an_interrupted_download_leaves_nothing_behind(empty, error):
    def load(scratch):
        (scratch / "half").write_bytes(b"x")
        raise error

    with pytest.raises((KeyboardInterrupt, DataError)) as caught:
        fetch("tinyshakespeare", shakespeare(load))
    assert not empty.exists()
    if caught.type is DataError:
        assert "put input.txt.gz there" in str(caught.value)
        assert caught.value.path == str(empty / "lm" / "tinyshakespeare")


@pytest.mark.parametrize("before", [False, True], ids=["first", "again"])
def test_an_interrupted_write_is_never_taken_for_whole(empty, monkeypatch, before):
    mnist = fetcher_of("mnist")
    fetcher = lambda content: fetchers.Fetcher(mnist.files, "", lambda _: dict.fromkeys(mnist.files.names, content))
    if before:
        fetch("mnist", fetcher(b"old"))
    write, written = OutputFolder.write, []

    def killed(self, name, data):
        if len(written) == 3:
            raise OutputError("saving needs room", "none", "free some", path=str(self.path))
        written.append(name)
        return write(self, name, data)

    monkeypatch.setattr(OutputFolder, "write", killed)
    with pytest.raises(OutputError):
        fetch("mnist", fetcher(b"new"))
    assert not fetcher(b"").intact or not mnist.files.look().present
    with pytest.raises(DataError, match="other bytes" if before else "no t10k-images"):
        mnist.files.find("mnist")
    monkeypatch.setattr(OutputFolder, "write", write)
    fetch("mnist", fetcher(b"new"))
    assert mnist.files.find("mnist") == empty / "mnist"


@pytest.mark.parametrize(("task", "words"), [("mnst", "write `mnist`"), ("beale", "needs nothing")])
def test_tasks_without_files_are_refused(task, words):
    with pytest.raises(ConfigError, match=words):
        fetcher_of(task)
    assert invoke(task).exit_code == 2


def test_a_missing_loader_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"pip install forwardgrad\[fetch\]"):
        fetch("tinyshakespeare", fetcher_of("tinyshakespeare"))


def openml(monkeypatch, pixels, labels) -> None:
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda name, **settings: (pixels, labels))


def test_openml_images_become_idx_files_if_they_are_the_published_ones(empty, monkeypatch):
    monkeypatch.setattr(fetchers, "_TRAIN", 60)
    pixels = np.zeros((63, 784), np.float64)
    pixels[:, 5] = np.arange(63)
    labels = np.asarray([str(i % 10) for i in range(63)], object)
    openml(monkeypatch, pixels, labels)
    with pytest.raises(DataError, match="another order"):
        fetch("mnist", fetcher_of("mnist"))
    assert not empty.exists()
    monkeypatch.setattr(fetchers, "_published", lambda *_: None)
    done = fetch("mnist", fetcher_of("mnist"))
    images, digits = (read_idx(done.folder / name) for name in done.names[2:])
    assert images.shape == (3, 28, 28) and images[:, 0, 5].tolist() == [60, 61, 62]
    assert digits.tolist() == [0, 1, 2] and len(read_idx(done.folder / done.names[1])) == 60


def test_openml_pictures_have_their_colours_last(empty, monkeypatch):
    planes = np.repeat(np.asarray([10, 20, 30], np.uint8), 1024)
    monkeypatch.setattr(fetchers, "_CIFAR_TRAIN", 50)
    openml(monkeypatch, np.tile(planes, (52, 1)), np.arange(52) % 10)
    first = hashlib.sha256(np.tile(np.asarray([10, 20, 30], np.uint8), (52, 32, 32, 1)).tobytes()).hexdigest()
    monkeypatch.setattr(fetchers, "_CIFAR_SHA256", first)
    done = fetch("cifar10", fetcher_of("cifar10"))
    test = read_archive(done.folder / ORIGINAL.names[1])
    assert test.pixels.shape == (2, 32, 32, 3) and test.labels.tolist() == [0, 1]


SECTIONS = ["World", "Sports", "Business", "Sci/Tech"]


class Table(dict):
    """As much of a Hugging Face table as the fetchers ask for."""

    column_names = property(list)
    features = property(lambda self: {"label": SimpleNamespace(names=SECTIONS)})

    def __len__(self) -> int:
        return len(self["label"])

    def select(self, rows) -> Table:
        return Table({name: [column[row] for row in rows] for name, column in self.items()})


def test_hugging_face_texts_become_tables(empty, monkeypatch):
    pytest.importorskip("datasets")
    phrases = Table(sentence=["a\tb \n c", "d"], label=[1, 0])
    news = Table(text=[f"text {i}" for i in range(12_000)], label=[i % 4 for i in range(12_000)])
    tables = {
        "stanfordnlp/sst2": {"train": phrases, "validation": phrases, "test": None},
        "SetFit/sst2": {"test": Table(text=["e"], label=[0])},
        "fancyzhx/ag_news": {"train": news, "test": news},
    }
    monkeypatch.setattr("datasets.load_dataset", lambda name, cache_dir: tables[name])
    done = fetch("sst2", fetcher_of("sst2"))
    train, _, test = (read_texts(done.folder / name, ("0", "1"), header=True) for name in done.names)
    assert train == (["a b c", "d"], [1, 0]) and test == (["e"], [0])
    done = fetch("ag-news", fetcher_of("ag-news"))
    rows, test = (read_texts(done.folder / name, SECTIONS) for name in done.names)
    assert len(set(rows.texts)) == 10_001 and len(test.texts) == 12_000
    assert all(int(text.split()[1]) % 4 == label for text, label in zip(*rows, strict=True))


def test_single_files_come_by_pooch(empty, monkeypatch, tmp_path):
    pytest.importorskip("pooch")
    archive = tmp_path / "fsdd.zip"
    with ZipFile(archive, "w") as file:
        for digit in (0, 7):
            content = io.BytesIO()
            with wave.open(content, "wb") as clip:
                clip.setparams((1, 2, 8000, 0, "NONE", ""))
                clip.writeframes(np.full(40 + digit, digit, "<i2").tobytes())
            file.writestr(f"free-1.0/recordings/{digit}_anna_{digit}.wav", content.getvalue())
    plain = tmp_path / "input.txt"
    plain.write_bytes(gzip.decompress(TEXT))
    monkeypatch.setattr("pooch.retrieve", lambda url, **_: str(archive if url.endswith(".zip") else plain))
    found = read(fetch("fsdd", fetcher_of("fsdd")).folder)
    assert found.label.tolist() == [0, 7] and [len(clip) for clip in found.clips] == [40, 47]
    assert (found.clips[1] == 7).all()
    folder = fetch("tinyshakespeare", fetcher_of("tinyshakespeare")).folder
    assert (folder / "input.txt.gz").read_bytes() == TEXT
    archive.write_bytes(b"half a zip")
    with pytest.raises(DataError, match="BadZipFile"):
        fetch("fsdd", fetcher_of("fsdd"))
