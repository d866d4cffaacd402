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
from pathlib import Path

from tests.services.packages import install

ROOT = Path("/usr/lib/postgresql")
CLUSTER_RULES = Path("/etc/postgresql-common/createcluster.conf")


@contextmanager
def running_postgres() -> Iterator[str]:
    """Yield the URL of a server that is stopped and removed at the end.

    It runs as another user than root, because PostgreSQL refuses root.

    Raises:
        RuntimeError: If PostgreSQL is missing and cannot be installed.
    """
    programs = find_programs()
    folder = Path(tempfile.mkdtemp(prefix="medq-postgres-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    cluster, password_file = folder / "cluster", folder / "password"
    port, password = free_port(), secrets.token_hex(16)
    password_file.write_text(password)
    password_file.chmod(0o644)  # in a folder that only its owner can enter

    def run(*words: str | Path) -> None:
        prefix = ["runuser", "-u", user, "--"] if user is not None else []
        subprocess.run([*prefix, *(str(word) for word in words)], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        run(programs / "initdb", "-D", cluster, "-U", "medq", "-A", "scram-sha-256", "--pwfile", password_file)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200"
        run(programs / "pg_ctl", "-D", cluster, "-l", folder / "log", "-w", "-o", options, "start")
        try:
            yield f"postgresql://medq:{password}@127.0.0.1:{port}/postgres"
        finally:
            run(programs / "pg_ctl", "-D", cluster, "-m", "immediate", "-w", "stop")
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
