import signal
import subprocess
import sys

import psycopg
import pytest

from medq_uni.annotate.records import ImageRecord, ReviewEntry, Role, StoreError
from medq_uni.annotate.store import Store
from medq_uni.taxonomy import Modality
from tests.services.postgres import running_postgres

pytestmark = pytest.mark.services
SAVER = """
import sys
from medq_uni.annotate.records import ReviewEntry, StoreError
from medq_uni.annotate.store import Store
with Store.open(sys.argv[1]) as store:
    account = store.accounts.find("ann").id
    given = store.reviews.listing(account)[0]
    number = given.head
    try:
        while True:
            entry = ReviewEntry(cause=f"text {number + 1}")
            number = store.reviews.save(given.id, account, based_on=number, entry=entry, is_done=False).number
            print(number, flush=True)
    except StoreError as error:
        print(error, file=sys.stderr)
"""


def prepare(url: str) -> int:
    """Make a store with one image for one reviewer, and return the reviewer's number."""
    with Store.open(url) as store:
        store.add_images([ImageRecord("image-0", Modality.CT, False)])
        ann = store.accounts.add("ann", Role.REVIEWER, "hash").id
        store.reviews.assign(1, [("image-0", ann)])
    return ann


def test_every_save_that_was_confirmed_survives_a_crash_of_the_server():
    with running_postgres() as cluster:
        ann = prepare(cluster.url)
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", SAVER, cluster.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None
            confirmed = [int(process.stdout.readline()) for _ in range(30)]
            cluster.stop()
            output, errors = process.communicate(timeout=60)
            confirmed += [int(line) for line in output.split(b"\n") if line]
            assert b"the database server does not let us in" in errors
            assert b"medq:***@" in errors
            with pytest.raises(StoreError, match="does not let us in"):
                Store.open(cluster.url)
            cluster.start()
            with Store.open(cluster.url) as store:
                history = store.reviews.history(ann, store.reviews.listing(ann)[0].id)
                assert confirmed[-1] <= len(history) <= confirmed[-1] + 1  # the last may have been kept unsaid
                assert [one.entry.cause for one in history] == [f"text {one.number}" for one in history]
                assert store.outcomes.check() == []


def test_a_connection_that_was_lost_is_replaced(postgres_url: str):
    ann = prepare(postgres_url)
    with Store.open(postgres_url) as store:
        given = store.reviews.listing(ann)[0]
        store.reviews.save(given.id, ann, based_on=0, entry=ReviewEntry(cause="before"), is_done=False)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            name = postgres_url.rpartition("/")[2]
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                (name,),
            )
        saved = store.reviews.save(given.id, ann, based_on=1, entry=ReviewEntry(cause="after"), is_done=False)
        assert saved.number == 2


def test_a_wrong_password_is_refused_and_not_repeated(postgres_url: str):
    scheme, _, rest = postgres_url.partition("medq:")
    wrong = f"{scheme}medq:WRONG-SECRET@{rest.partition('@')[2]}"
    with pytest.raises(StoreError, match="does not let us in") as caught:
        Store.open(wrong)
    assert "WRONG-SECRET" not in str(caught.value)


def test_a_saver_killed_in_mid_transaction_holds_no_lock(postgres_url: str):
    ann = prepare(postgres_url)
    code = (
        "import sys, time\nfrom sqlalchemy import text\nfrom medq_uni.annotate.store import Store\n"
        "with Store.open(sys.argv[1]) as store, store.database.writing() as session:\n"
        "    session.execute(text('SELECT * FROM assignment FOR UPDATE'))\n"
        "    print('locked', flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, postgres_url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Store.open(postgres_url) as store:
        given = store.reviews.listing(ann)[0]
        assert store.reviews.save(given.id, ann, based_on=0, entry=ReviewEntry(), is_done=False).number == 1
