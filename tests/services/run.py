"""Start the real servers, run the tests that talk to them, stop the servers.

Run: python -m tests.services.run      (make test-services)
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def main() -> int:
    """Return the exit status of the tests; a server that does not start is a failure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MEDQ_RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_USAGE_STATS_ENABLED": "0"}
    start = ["ray", "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run([*start, "--node-ip-address=127.0.0.1"], check=True, env=environment)
    try:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "services"], env=environment, check=False
        ).returncode
    finally:
        subprocess.run(["ray", "stop"], check=False, env=environment)


if __name__ == "__main__":
    sys.exit(main())
