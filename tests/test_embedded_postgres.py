"""The embedded PostgreSQL's life: many processes share one server, in any order, and nothing of it is left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from lumen_api.dev import embedded_postgres
from lumen_api.dev.embedded_postgres import EmbeddedPostgresError
from tests.support import databases, eventually, processes
from tests.support.postgres_user import RESTLESS, SCRIPT, User

Start = Callable[..., User]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that uses the server in a folder. At the end of the test nothing is left of all of them."""
    users: list[User] = []

    def begin(folder: Path, script: str = SCRIPT, **env: str) -> User:
        users.append(User(folder, script, **env))
        return users[-1]

    yield begin
    try:
        for user in users:
            user.end()
        eventually(lambda: all(nothing_is_left(user.folder) for user in users))
    finally:
        for user in users:
            processes.kill(*processes.of(user.folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a server that has stopped. Its table `notes` is empty."""
    folder = tmp_path_factory.mktemp("cluster") / "pg"
    databases.query(embedded_postgres.start(folder), "create table notes (text text)")
    embedded_postgres.leave(folder)
    return folder


@pytest.fixture
def spare(folder: Path, tmp_path: Path) -> Path:
    """A copy of `folder`, for this test alone: for those that may break it."""
    subprocess.run(["cp", "-a", folder, tmp_path / "pg"], check=True)
    return tmp_path / "pg"


def nothing_is_left(folder: Path) -> bool:
    return processes.of(folder) == {}


# --- One server for all. ---


def test_two_processes_share_one_server(start: Start, folder: Path) -> None:
    one, other = start(folder), start(folder)

    assert one.dsn == other.dsn
    eventually(lambda: len(processes.keepers(folder)) == 1)


def test_who_came_first_may_leave_first(start: Start, folder: Path) -> None:
    first, second = start(folder), start(folder)
    dsn = first.dsn
    assert second.dsn == dsn
    server = databases.postmaster(folder)

    first.end()

    assert databases.query(dsn, "select count(*) from notes") == [(0,)]
    assert databases.postmaster(folder) == server
    second.end()
    eventually(lambda: nothing_is_left(folder))


def test_of_eight_that_start_at_once_all_have_the_same_new_server(start: Start, tmp_path: Path) -> None:
    users = [start(tmp_path / "pg") for _ in range(8)]

    assert len({user.dsn for user in users}) == 1
    eventually(lambda: len(processes.keepers(tmp_path / "pg")) == 1)
    for user in users:
        user.end()
    eventually(lambda: nothing_is_left(tmp_path / "pg"))


def test_processes_that_come_and_go_never_miss_it(start: Start, folder: Path) -> None:
    users = [start(folder, RESTLESS) for _ in range(3)]

    for user in users:
        assert user.process.communicate(timeout=60)[1] == ""
        assert user.process.returncode == 0
    eventually(lambda: nothing_is_left(folder))


# --- The end. ---


@pytest.mark.parametrize(
    "number", [None, signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number and number.name
)
def test_after_the_last_has_ended_nothing_is_left(start: Start, folder: Path, number: signal.Signals | None) -> None:
    user = start(folder)
    assert user.dsn

    user.end(number)

    eventually(lambda: nothing_is_left(folder))
    assert not (folder / "postgres" / "data" / "postmaster.pid").exists()  # it was told to stop, and not killed


def test_an_open_connection_does_not_keep_it_alive(start: Start, folder: Path) -> None:
    user = start(folder)
    connection = databases.connect(user.dsn)

    user.end(signal.SIGKILL)

    eventually(lambda: nothing_is_left(folder))
    connection.close()


def test_to_leave_twice_or_uninvited_is_harmless(folder: Path, tmp_path: Path) -> None:
    embedded_postgres.start(folder)
    embedded_postgres.leave(folder)
    embedded_postgres.leave(folder)
    embedded_postgres.leave(tmp_path / "never started")

    eventually(lambda: nothing_is_left(folder))


def test_the_data_is_there_the_next_time(start: Start, spare: Path) -> None:
    for expected in (1, 2):
        user = start(spare)
        dsn = user.dsn
        databases.query(dsn, "insert into notes values ('a note')")
        assert databases.query(dsn, "select count(*) from notes") == [(expected,)]
        user.end()


# --- kill -9. ---


def test_after_kill_9_of_everything_the_next_start_has_the_data(start: Start, spare: Path) -> None:
    databases.query(start(spare).dsn, "insert into notes values ('committed')")
    everything = processes.of(spare)
    assert len(everything) > 4
    processes.kill(*everything)
    eventually(lambda: nothing_is_left(spare))

    assert databases.query(start(spare).dsn, "select text from notes") == [("committed",)]


def test_a_process_that_has_got_a_dead_servers_id_is_not_taken_for_it(
    start: Start, spare: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-a", spare, other], check=True)
    assert start(other).dsn
    assert start(spare).dsn
    processes.kill(*processes.of(spare))
    eventually(lambda: nothing_is_left(spare))
    # As after a restart of the machine: the same number, and another process of the same user.
    server = str(databases.postmaster(spare))
    for file in (spare / "postgres" / "data" / "postmaster.pid", spare / ".s.PGSQL.5432.lock"):
        file.write_text(file.read_text().replace(server, str(databases.postmaster(other)), 1))

    survivor = start(spare)

    assert databases.query(survivor.dsn, "select 1") == [(1,)]
    assert databases.postmaster(spare) != databases.postmaster(other)


def test_a_pid_file_that_a_power_cut_has_emptied_is_no_obstacle(start: Start, spare: Path) -> None:
    (spare / "postgres" / "data" / "postmaster.pid").touch()

    assert databases.query(start(spare).dsn, "select 1") == [(1,)]


def test_after_kill_9_of_the_keeper_the_next_start_adopts_the_server(start: Start, spare: Path) -> None:
    first = start(spare)
    dsn = first.dsn
    server = databases.postmaster(spare)
    processes.kill(*processes.keepers(spare))
    eventually(lambda: processes.keepers(spare) == [])

    second = start(spare)

    assert second.dsn == dsn
    assert databases.postmaster(spare) == server
    first.end()
    second.end()
    eventually(lambda: nothing_is_left(spare))


def test_after_kill_9_of_the_server_the_next_start_makes_it_run_again(start: Start, spare: Path) -> None:
    user = start(spare)
    assert user.dsn
    processes.kill(databases.postmaster(spare))
    user.end()

    assert databases.query(start(spare).dsn, "select 1") == [(1,)]


def test_after_kill_9_in_the_middle_of_initdb_the_next_start_begins_again(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "pg"
    start(folder)
    eventually((folder / "postgres" / "data.new" / "PG_VERSION").exists)
    processes.kill(*processes.of(folder))
    eventually(lambda: nothing_is_left(folder))
    assert not (folder / "postgres" / "data").exists()

    assert databases.query(start(folder).dsn, "select 1") == [(1,)]


# --- Folders. ---


def test_below_a_closed_folder_it_runs_and_opens_nothing(start: Start, tmp_path: Path) -> None:
    parents = {tmp_path / "a": 0o711, tmp_path / "a/b": 0o700, tmp_path / "a/b/c": 0o750}
    for parent, mode in parents.items():
        parent.mkdir()
        parent.chmod(mode)
    folder = tmp_path / "a/b/c/d/pg"

    dsn = start(folder).dsn

    assert databases.query(dsn, "select 1") == [(1,)]
    assert {parent: parent.stat().st_mode & 0o7777 for parent in parents} == parents
    assert {parent.stat().st_uid for parent in (*parents, folder.parent, folder)} == {os.getuid()}
    assert folder.stat().st_mode & 0o7777 == 0o700


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, whose own path is short."""
    with tempfile.TemporaryDirectory(prefix="t") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def test_below_a_very_long_path_it_runs(start: Start, spare: Path, tmp_path: Path, short: Path) -> None:
    far = tmp_path / ("long" * 50) / ("longer" * 40)
    far.parent.mkdir()
    spare.rename(far)

    user = start(far, TMPDIR=str(short))

    assert databases.query(user.dsn, "select 1") == [(1,)]
    assert [entry.stat().st_mode & 0o7777 for entry in short.iterdir()] == [0o700]


@pytest.mark.parametrize("trap", ["open to all", "a link"])
def test_a_socket_folder_that_somebody_has_prepared_is_refused(tmp_path: Path, short: Path, trap: str) -> None:
    folder = tmp_path / ("long" * 50)
    place = short / f"lumen-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    if trap == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)

    with pytest.raises(EmbeddedPostgresError, match="belongs to somebody else"):
        embedded_postgres.start(folder)


def test_what_cannot_work_says_so_soon_and_where_to_look(spare: Path) -> None:
    (spare / "postgres" / "data" / "global" / "pg_control").unlink()
    began = monotonic()

    for _ in range(2):  # and again, when it is tried again
        with pytest.raises(EmbeddedPostgresError, match=r"postgres\.log") as error:
            embedded_postgres.start(spare)
        assert str(spare) in str(error.value)

    assert monotonic() - began < 10
    assert "pg_control" in (spare / "postgres.log").read_text()
    embedded_postgres.leave(spare)
    eventually(lambda: nothing_is_left(spare))
