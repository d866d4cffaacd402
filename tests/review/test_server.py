import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medq_uni.annotate.records import Account, Role
from medq_uni.annotate.store import Store
from medq_uni.review.server import NotServed, check_address, is_loopback, serve
from tests.review.department import password_hash
from tests.services.postgres import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_is_known_and_needs_no_account(store: Store, host: str):
    assert is_loopback(host)
    check_address(store, host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.4", "ward.example", "localhost.evil.example"])
def test_the_world_is_not_served_without_accounts(store: Store, host: str, images: Path):
    assert store.database.path is not None
    with pytest.raises(NotServed, match="no account that can sign in"):
        serve(store.database.path, images, host=host, port=free_port())


def test_an_account_that_is_disabled_does_not_open_the_door(store: Store):
    account = store.accounts.add("ana", Role.REVIEWER, password_hash())
    check_address(store, "0.0.0.0")
    store.accounts.change(account.id, is_disabled=True)
    with pytest.raises(NotServed):
        check_address(store, "0.0.0.0")


def test_a_taken_port_is_a_clear_error(store: Store, accounts: dict[str, Account], images: Path):
    assert store.database.path is not None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(NotServed, match=r"cannot listen at .* Choose another"):
            serve(store.database.path, images, port=taken.getsockname()[1])


def test_accounts_do_not_load_the_network_of_the_model():
    code = "import sys, medq_uni.review.sign_in; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
