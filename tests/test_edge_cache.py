"""What is kept between two starts: given back as it was or not at all."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cache import KEEP, cache_folder, read_cached, write_cached


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def only_file(folder: Path) -> Path:
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    return file


def test_the_folder_is_the_named_one_else_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("EDGEKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/edgekit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/edgekit"
    monkeypatch.setenv("EDGEKIT_CACHE", "off")
    assert cache_folder() is None


@given(content=st.binary(max_size=200), key=st.text(max_size=40))
def test_what_was_kept_comes_back(content: bytes, key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert write_cached("kind", key, content)
        assert read_cached("kind", key) == content
        assert read_cached("kind", key + "x") is None
        assert read_cached("other", key) is None


@pytest.mark.parametrize("position", [0, 31, 32, -1])
def test_a_flipped_bit_is_noticed(folder: Path, position: int) -> None:
    write_cached("kind", "key", bytes(range(100)))
    file = only_file(folder)
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    assert read_cached("kind", "key") is None


def test_a_torn_or_empty_file_is_noticed(folder: Path) -> None:
    write_cached("kind", "key", bytes(100))
    file = only_file(folder)
    for length in (100, 32, 10, 0):
        file.write_bytes(file.read_bytes()[:length])
        assert read_cached("kind", "key") is None


def test_a_file_under_anothers_name_is_noticed(folder: Path) -> None:
    write_cached("kind", "one", b"content")
    first = only_file(folder)
    write_cached("kind", "other", b"content")
    (second,) = set(first.parent.iterdir()) - {first}
    first.replace(second)
    assert read_cached("kind", "other") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_another_user_owns_is_not_read(folder: Path) -> None:
    write_cached("kind", "key", b"content")
    os.chown(only_file(folder), 65534, 65534)
    assert read_cached("kind", "key") is None


def test_the_oldest_go_when_there_are_too_many(folder: Path) -> None:
    for index in range(KEEP + 3):
        write_cached("kind", str(index), b"content")
        newest = max((folder / "kind").iterdir(), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, (index, index))
    assert [read_cached("kind", str(index)) is None for index in range(KEEP + 3)] == [True] * 3 + [False] * KEEP


def test_nothing_is_kept_where_it_is_off_or_there_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", "off")
    assert not write_cached("kind", "key", b"content")
    assert read_cached("kind", "key") is None
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    assert not write_cached("kind", "key", b"content")
    assert read_cached("kind", "key") is None
