"""Start the real servers, run the tests that talk to them, stop the servers.

Run: python -m tests.services.run [ARGUMENTS OF PYTEST]      (make test-services)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.services.packages import require_chromium
from tests.services.postgres import free_port, running_postgres


def main() -> int:
    """Return the exit status of the tests; a server that does not start is a failure."""
    require_chromium()
    with running_ray() as ray, running_postgres() as postgres:
        environment = os.environ | {
            "MEDQ_RAY_ADDRESS": ray,
            "MEDQ_POSTGRES_URL": postgres.url,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        command = [sys.executable, "-m", "pytest", "-m", "services", *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode


@contextmanager
def running_ray() -> Iterator[str]:
    """Yield the address of a Ray cluster of this machine."""
    address = f"127.0.0.1:{free_port()}"
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    start = ["ray", "start", "--head", f"--port={address.partition(':')[2]}", "--num-cpus=2"]
    start += ["--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    subprocess.run(start, check=True, env=environment)
    try:
        yield address
    finally:
        subprocess.run(["ray", "stop"], check=False, env=environment)


if __name__ == "__main__":
    sys.exit(main())
