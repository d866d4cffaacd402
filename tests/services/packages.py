"""Programs of the operating system that the tests of services need."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")


def require_chromium() -> None:
    """Install the browser where it is missing.

    Raises:
        RuntimeError: If it cannot be installed.
    """
    if not CHROMIUM.exists():
        install("chromium")


def install(package: str) -> None:
    """Install a Debian package.

    Raises:
        RuntimeError: If this user or this system cannot.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"{package} is not installed. Install it: apt-get install {package}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], check=True, env=environment)
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
    subprocess.run([*command, package], check=True, env=environment)
