"""Leases in object storage: by conditional requests, so that exactly one of several runs holds one."""

import json
import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import pytest
from object_store import BUCKET, client, object_store, options

import geotile.storage.lease
from geotile import OutputError
from geotile.storage.conditional import ConditionalObject
from geotile.storage.folder import Folder
from geotile.storage.lease import is_leased, lease

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store_here():
    with object_store() as proxy:
        yield proxy


@pytest.fixture
def store(store_here):
    yield store_here
    store_here.fault, store_here.around, store_here.ignored_headers = (lambda method, path: None), None, ()


@pytest.fixture
def folder(store):
    return Folder.at(f"s3://{BUCKET}/{uuid4().hex}", options(store))


@pytest.fixture
def often(monkeypatch):
    """Leases renewed every 50 ms, stale after two seconds."""
    monkeypatch.setattr(geotile.storage.lease, "RENEW_S", 0.05)
    monkeypatch.setattr(geotile.storage.lease, "STALE_S", 2.0)


def leave(folder, age_s, owner="elsewhere:1:x"):
    folder.write("lease", json.dumps({"owner": owner, "at": time.time() - age_s}).encode())


def holder(folder):
    return json.loads(folder.read("lease"))["owner"]


@pytest.mark.slow
def test_a_lease_is_created_renewed_and_released(store, folder, often):
    store.clear()
    with lease(folder, "lease", "it"):
        assert is_leased(folder, "lease")
        with pytest.raises(OutputError, match=rf"it is in use by another run \(process {os.getpid()} on "):
            lease(folder, "lease", "it").__enter__()
        first = folder.read("lease")
        time.sleep(2.5)  # longer than an unrenewed lease lasts
        assert folder.read("lease") != first
        assert is_leased(folder, "lease")
    assert folder.read("lease") is None
    assert not is_leased(folder, "lease")
    writes = [each for each in store.requests if each.method in ("PUT", "DELETE")]
    assert len(writes) > 8
    assert all({"if-match", "if-none-match"} & set(each.headers) for each in writes)


@pytest.mark.slow
def test_of_many_that_find_a_stale_lease_one_takes_it_over(folder):
    for state in ("stale", "of a process that is gone", "damaged", "absent"):
        if state == "stale":
            leave(folder, 61)
        elif state == "of a process that is gone":
            leave(folder, 1, f"{socket.gethostname()}:99999999:x")
        elif state == "damaged":
            folder.write("lease", b"\xff{")
        together, held = threading.Barrier(8), []

        def take(n, together=together, held=held):
            together.wait()
            with ExitStack() as stack:
                try:
                    stack.enter_context(lease(folder, "lease", "it"))
                except OutputError as error:
                    return str(error)
                held.append(n)
                together.wait()
                return ""

        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(take, n) for n in range(8)]
            deadline = time.monotonic() + 60
            while sum(each.done() for each in answers) < 7:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(0.1)
            assert len(held) == 1, state
            for _ in range(7):  # the one that holds it waits for seven more
                pool.submit(together.wait)
        errors = [each.result() for each in answers if each.result()]
        assert len(errors) == 7
        assert all("in use by another run" in each for each in errors), errors
        assert folder.read("lease") is None


def test_a_live_lease_of_another_host_is_left_alone(folder):
    leave(folder, 30)
    with pytest.raises(OutputError, match=r"process 1 on elsewhere, which renewed its lease 3\d s ago"):
        lease(folder, "lease", "it").__enter__()
    assert holder(folder) == "elsewhere:1:x"
    assert is_leased(folder, "lease")


def test_a_lease_that_was_taken_over_is_neither_renewed_nor_removed(folder, often, caplog):
    caplog.set_level(logging.WARNING, "geotile")
    with lease(folder, "lease", "it"):
        leave(folder, 0)
        time.sleep(0.3)
        assert holder(folder) == "elsewhere:1:x"
    assert holder(folder) == "elsewhere:1:x"
    assert "another run has taken over the lease of it" in caplog.text


@pytest.mark.slow
def test_a_lost_response_is_no_lost_lease(store, folder, often, caplog):
    """S3 has written, its answer did not arrive, and the request that is sent again finds the object."""
    lost = []

    def around(sent, headers, forward):
        status, given, body = forward(sent)
        if status == 200 and sent and b"owner" in sent and len(lost) < 4:
            lost.append(headers.get("if-none-match", "renewal"))
            if len(lost) % 2:
                return 503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code></Error>"
        return status, given, body

    store.around = around
    with lease(folder, "lease", "it"):
        time.sleep(0.4)
        assert is_leased(folder, "lease")
    assert not [each for each in caplog.records if each.name.startswith("geotile")]
    assert lost[0] == "*"
    assert "renewal" in lost
    assert folder.read("lease") is None


@pytest.mark.parametrize("ignored", [("if-match",), ("if-match", "if-none-match")])
def test_a_store_that_ignores_conditions_is_refused(store, folder, ignored):
    store.ignored_headers = ignored
    with pytest.raises(
        OutputError, match=r"it cannot be leased: its store has no conditional writes .*Use a local folder"
    ):
        lease(folder, "lease", "it").__enter__()
    assert folder.read("lease") is None


def test_a_store_without_conditional_writes_is_refused(store, folder):
    no = (501, {"Content-Type": "application/xml"}, b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>")
    store.fault = lambda method, path: no if method == "PUT" else None
    with pytest.raises(OutputError, match=r"no conditional writes .*Use a local folder"):
        lease(folder, "lease", "it").__enter__()
    with pytest.raises(OutputError, match=r"no conditional writes \(fsspec has conditional writes for S3 only\)"):
        lease(Folder("memory://folder"), "lease", "it").__enter__()


def test_a_store_without_conditional_removal(store, folder):
    store.ignored_headers = ()
    no = (501, {"Content-Type": "application/xml"}, b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>")

    def around(sent, headers, forward):
        return no if "if-match" in headers and sent is None else forward(sent)

    store.around = around
    with lease(folder, "lease", "it"):
        pass
    assert folder.read("lease") is None


def test_a_conflict_is_tried_again(store, folder):
    conflict = b"<Error><Code>ConditionalRequestConflict</Code><Message>again</Message></Error>"
    conflicts = []

    def fault(method, path):
        if method == "PUT" and len(conflicts) < 2:
            conflicts.append(path)
            return 409, {"Content-Type": "application/xml"}, conflict
        return None

    store.fault = fault
    with lease(folder, "lease", "it"):
        assert is_leased(folder, "lease")
    assert len(conflicts) == 2


def test_a_place_that_cannot_be_written_is_an_error(store, folder):
    with pytest.raises(OutputError, match=r"cannot write it: .*bucket"):
        lease(Folder.at("s3://no-such-bucket/x", options(store)), "lease", "it").__enter__()


def test_a_conditional_object(store, folder):
    """What s3fs passes on to S3: tests that it still does."""
    files, path = folder.files()
    it = ConditionalObject(files, f"{path}/object")
    assert it.read() is None
    assert it.replace(b"none", '"0"') is None
    first = it.create(b"first")
    assert it.create(b"again") is None
    assert it.read() == (b"first", first)
    second = it.replace(b"second", first)
    assert it.replace(b"late", first) is None
    assert it.read() == (b"second", second)
    it.remove(first)
    assert it.read() == (b"second", second)
    it.remove(second)
    it.remove(second)
    assert it.read() is None
    assert not client(store).list_objects_v2(Bucket=BUCKET, Prefix=path.partition("/")[2]).get("Contents")
