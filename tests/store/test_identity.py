"""The right database: none is made in the place of one that is missing, and one that was moved is noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.samples import record
from tollboard.errors import StoreMisplaced
from tollboard.ids import new_ref
from tollboard.store.identity import Home, wal_of
from tollboard.store.store import Store

OURS, OTHERS = "0123456789abcdef" * 2, "f" * 32


def used(home_id: str = OURS) -> Home:
    return Home(home_id, used_before=True)


async def make(path: Path, home: Home) -> None:
    store = await Store.open(path, home=home)
    await store.create_session(record("api"))
    await store.close()


async def test_a_missing_database_is_not_replaced_by_an_empty_one(path: Path) -> None:
    await make(path, Home(OURS))
    path.unlink()
    with pytest.raises(StoreMisplaced, match="used before"):
        await Store.open(path, home=used())
    assert not path.exists()


async def test_an_empty_file_is_no_database_of_a_used_directory(path: Path) -> None:
    await make(path, Home(OURS))
    path.write_bytes(b"")
    with pytest.raises(StoreMisplaced, match="is empty"):
        await Store.open(path, home=used())


async def test_a_log_without_its_database_is_kept(path: Path) -> None:
    store = await Store.open(path)
    await store.create_session(record("api"))
    kept = path.parent / "kept"
    shutil.copy(wal_of(path), kept)
    await store.close()
    path.unlink()
    shutil.copy(kept, wal_of(path))
    with pytest.raises(StoreMisplaced, match="newest changes"):
        await Store.open(path)
    assert wal_of(path).read_bytes() == kept.read_bytes()


async def test_a_database_of_another_directory_is_refused_unchanged(path: Path) -> None:
    await make(path, Home(OTHERS))
    before = path.read_bytes()
    with pytest.raises(StoreMisplaced, match="another state directory"):
        await Store.open(path, home=used(OURS))
    assert path.read_bytes() == before


async def test_a_directory_that_lost_its_id_takes_its_database_over(path: Path) -> None:
    await make(path, Home(OTHERS))
    await make_again(path, Home(OURS))
    await make_again(path, used(OURS))


async def make_again(path: Path, home: Home) -> None:
    store = await Store.open(path, home=home)
    assert [session.name for session in await store.sessions()] == ["api"]
    await store.close()


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


def remove_log(path: Path) -> None:
    wal_of(path).unlink()


@pytest.mark.parametrize("harm", [move_away, replace, remove_log])
async def test_what_happens_to_an_open_database_is_noticed_at_the_next_write(
    path: Path, harm: Callable[[Path], None]
) -> None:
    store = await Store.open(path, home=Home(OURS))
    await store.create_session(record("api"))
    assert store.problem() is None
    harm(path)
    assert "moved, removed or replaced" in str(store.problem())
    with pytest.raises(StoreMisplaced):
        await store.create_session(record("lost"))
    await store.close()


async def test_a_database_that_is_put_back_is_used_again(path: Path) -> None:
    store = await Store.open(path)
    await store.create_session(record("api"))
    move_away(path)
    with pytest.raises(StoreMisplaced):
        await store.create_session(record("refused"))
    path.with_name("elsewhere").rename(path)
    await store.create_session(record("again"))
    assert store.problem() is None
    assert [session.name for session in await store.sessions()] == ["api", "again"]
    await store.close()


async def test_reads_do_not_answer_from_a_file_that_took_its_place(path: Path) -> None:
    store = await Store.open(path)
    replace(path)
    with pytest.raises(StoreMisplaced):
        await store.request(new_ref())
    await store.close()
