"""The process that starts an embedded PostgreSQL, and stops it when nobody uses it any more.

    python -I postgres_keeper.py FOLDER SOCKET_FOLDER BINARIES

Run by embedded_postgres.py, which explains the locks. Standard library only: it outlives the environment it was
started from.
"""

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

USERS_LOCK = "users.lock"
SERVER_LOCK = "server.lock"
SUPERUSER = "lumen"

SETTINGS = {
    "listen_addresses": "",  # a Unix socket in a folder of mode 0700 only
    "unix_socket_permissions": "0700",
    # psycopg2 writes values into the SQL, and PostgreSQL logs the SQL of every error: addresses, hashes. An error's own
    # text can quote a value too. What went wrong is in our log, by class.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


def main(folder: Path, socket_folder: Path, binaries: Path) -> int:
    """0 when the server runs, or when another keeper is at work; anything else when it cannot be started.

    Who called hears that, and a child process stays behind as the keeper. It inherits the lock.
    """
    os.umask(0o077)
    server = (folder / SERVER_LOCK).open("wb")
    try:
        fcntl.flock(server, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    cluster = Cluster(folder / "postgres", binaries)
    if failed := cluster.create() or cluster.start(socket_folder, log=folder / "postgres.log"):
        return failed
    if os.fork():
        return 0
    users = (folder / USERS_LOCK).open("wb")
    fcntl.flock(users, fcntl.LOCK_EX)  # until the last process that used the server has ended, however it did
    stopped = cluster.stop()
    server.close()  # first, so that whoever gets users.lock next finds no keeper
    users.close()
    return stopped


class Cluster:
    """PostgreSQL's data in `folder/data`, and the programs that work on it. Their exit status is what comes back."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.binaries = binaries
        self.prefix: list[str] = []
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root. "nobody" may not pass through the folders above ours, and to open
            # them would be rude: so it gets the one capability that lets it pass.
            nobody = pwd.getpwnam("nobody")
            self.prefix = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
            self.prefix += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--"]

    def create(self) -> int:
        """Make the data where there is none. Half-made data, left by a crash, is made again."""
        if self.data.exists():
            return 0
        self.folder.mkdir(exist_ok=True)
        if self.prefix:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        failed = self._run("initdb", "-D", new, "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-locale")
        if not failed:
            new.rename(self.data)
        return failed

    def start(self, socket_folder: Path, *, log: Path) -> int:
        """Start the server, unless one is running: a keeper that was killed leaves it behind."""
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists():
            pid, _, rest = pid_file.read_text().partition("\n")
            if pid and self._is_ours(pid):
                return 0
            # PostgreSQL would believe in a file whose number belongs to a zombie, or to another process by now. The
            # number of its grandparent, us, it takes for stale; the rest of the file tells it whether a part of the
            # old server is still at work. An empty file, left by a power cut, it would refuse.
            pid_file.write_text(f"{os.getpid()}\n{rest}") if rest else pid_file.unlink()
            (socket_folder / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        settings = {**SETTINGS, "unix_socket_directories": str(socket_folder)}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        return self._control("start", "--wait", "--log", log, "-o", options)

    def stop(self) -> int:
        """Stop the server, without waiting for its clients."""
        return self._control("stop", "--wait", "--mode=fast") and self._control("stop", "--wait", "--mode=immediate")

    def _is_ours(self, pid: str) -> bool:
        if sys.platform == "linux":
            command = Path("/proc", pid, "cmdline")
            line = command.read_text() if command.exists() else ""
        else:
            ps = subprocess.run(["/bin/ps", "-p", pid, "-o", "command="], check=False, capture_output=True, text=True)
            line = ps.stdout
        return str(self.data) in line

    def _control(self, action: str, *arguments: str | Path) -> int:
        return self._run("pg_ctl", action, "-D", self.data, *arguments)

    def _run(self, program: str, *arguments: str | Path) -> int:
        return subprocess.call([*self.prefix, self.binaries / program, *arguments], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
