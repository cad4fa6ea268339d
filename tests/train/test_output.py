from __future__ import annotations

import errno
import os

import pytest

from forwardgrad.errors import OutputError
from forwardgrad.train.output import OutputFolder


def test_a_probe_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    output = OutputFolder(tmp_path / "new" / "deep").probe()
    assert list(output.path.iterdir()) == []


def test_writing_replaces_the_whole_file(tmp_path):
    output = OutputFolder(tmp_path).probe()
    output.write("record.json", b"a long first version")
    assert output.write("record.json", b"second").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "runs").write_text("mine")
    for path in (tmp_path / "runs", tmp_path / "runs" / "demo"):
        with pytest.raises(OutputError) as caught:
            OutputFolder(path).probe()
        assert caught.value.path == str(path) and "file where a folder" in caught.value.found
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        OutputFolder(tmp_path).probe()


@pytest.mark.parametrize(
    ("code", "found"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EROFS, "cannot")],
)
def test_a_disk_that_fails_loses_nothing_saved_before(tmp_path, monkeypatch, code, found):
    output = OutputFolder(tmp_path).probe()
    output.write("record.json", b"first")

    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=found) as caught:
        output.write("record.json", b"second")
    assert "--out" in caught.value.cure
    assert (tmp_path / "record.json").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_an_interruption_while_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        OutputFolder(tmp_path).write("record.json", b"x")
    assert list(tmp_path.iterdir()) == []
