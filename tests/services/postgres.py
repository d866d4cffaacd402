"""A throw-away PostgreSQL cluster on a free loopback port."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.packages import install

ROOT = Path("/usr/lib/postgresql")
SERVER_USER = "postgres"
CLUSTER_RULES = Path("/etc/postgresql-common/createcluster.conf")


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server of its own.

    Attributes:
        folder: Where it keeps everything.
        programs: Of PostgreSQL.
        port: On the loopback address.
        password: Of the user medq.
    """

    folder: Path
    programs: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        """URL of the first database."""
        return f"postgresql://medq:{self.password}@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        """Write an empty cluster."""
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o644)  # in a folder that only its owner can enter
        rules = ("-U", "medq", "-A", "scram-sha-256", "--pwfile", password_file)
        self._run("initdb", "-D", self.folder / "cluster", *rules)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200"
        self._run("pg_ctl", "-D", self.folder / "cluster", "-l", self.folder / "log", "-w", "-o", options, "start")

    def stop(self) -> None:
        """Stop the server at once, as a crash would; the next start recovers what was committed."""
        self._run("pg_ctl", "-D", self.folder / "cluster", "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *words: str | Path) -> None:
        prefix = ["runuser", "-u", SERVER_USER, "--"] if os.geteuid() == 0 else []
        command = [*prefix, str(self.programs / program), *(str(word) for word in words)]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)


@contextmanager
def running_postgres() -> Iterator[Cluster]:
    """Yield a server that is stopped and removed at the end.

    It runs as another user than root, because PostgreSQL refuses root.

    Raises:
        RuntimeError: If PostgreSQL is missing and cannot be installed.
    """
    programs = find_programs()
    folder = Path(tempfile.mkdtemp(prefix="medq-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, SERVER_USER)
    cluster = Cluster(folder, programs, free_port(), secrets.token_hex(16))
    try:
        cluster.make()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs; install it where it is missing.

    Raises:
        RuntimeError: If it is missing and cannot be installed.
    """
    if not _installed():
        _install()
    found = _installed()
    if not found:
        raise RuntimeError(f"PostgreSQL was installed, but {ROOT} holds no server.")
    return max(found, key=lambda path: int(path.parent.name))


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _installed() -> list[Path]:
    return [path.parent for path in ROOT.glob("*/bin/initdb") if path.parts[-3].isdecimal()]


def _install() -> None:
    if os.geteuid() == 0 and not CLUSTER_RULES.exists():  # no server of the package's own, the tests start theirs
        CLUSTER_RULES.parent.mkdir(exist_ok=True)
        CLUSTER_RULES.write_text("create_main_cluster = false\n")
    install("postgresql")
