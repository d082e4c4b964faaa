"""Leases in object storage: by conditional requests, so that exactly one of several runs holds one."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import pytest
from object_store import BUCKET, client, object_store, options

import geotile.storage.lease_holder
from geotile import OutputError
from geotile.storage.conditional import ConditionalObject
from geotile.storage.folder import Folder
from geotile.storage.lease import is_leased, lease
from geotile.storage.lease_holder import Holder, renewal_age_s
from geotile.storage.mounts import is_on_network

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
    monkeypatch.setattr(geotile.storage.lease_holder, "RENEW_S", 0.05)
    monkeypatch.setattr(geotile.storage.lease_holder, "STALE_S", 2.0)


def leave(folder, age_s, owner="elsewhere:1:x", **more):
    folder.write("lease", json.dumps({"owner": owner, "at": time.time() - age_s} | more).encode())


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
            own = Holder.of_this_process()
            leave(folder, 1, f"{socket.gethostname()}:99999999:x", system=own.system, begun=own.begun)
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


# --- in file systems

HOLD = """
import os, sys, time
from geotile.storage.lease import lease
from geotile.storage.folder import Folder
with lease(Folder.at(sys.argv[1]), "lease", "it"):
    child = os.fork() if sys.argv[2:] else 0
    if child or not sys.argv[2:]:
        print(child or "held", flush=True)
    time.sleep(60)
"""


def holding(place, *words, before=()):
    return subprocess.Popen([*before, sys.executable, "-c", HOLD, place, *words], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def on_network(monkeypatch):
    """Take every file system for one that other machines see."""
    monkeypatch.setattr("geotile.storage.file_lease.is_on_network", lambda folder: True)


@pytest.mark.parametrize(
    "left",
    [b"", b"{", f"{os.getpid()}\n{socket.gethostname()}\n".encode(), b"[1]"],
    ids=["empty", "cut", "old", "other"],
)
@pytest.mark.parametrize("network", [False, True])
def test_a_file_without_a_holder_is_void_at_once(tmp_path, left, network, request):
    if network:
        request.getfixturevalue("on_network")
    (tmp_path / "lease").write_bytes(left)
    folder = Folder.at(tmp_path)
    assert not is_leased(folder, "lease")
    with lease(folder, "lease", "it"):
        assert is_leased(folder, "lease")
        with pytest.raises(OutputError, match=rf"it is in use by another run \(process {os.getpid()} on "):
            lease(folder, "lease", "it").__enter__()
    assert not (tmp_path / "lease").exists()


def test_a_lease_ends_with_its_process_and_not_with_its_children(tmp_path):
    folder = Folder.at(tmp_path)
    process = holding(str(tmp_path), "fork")
    child = int(process.stdout.readline())
    try:
        with pytest.raises(OutputError, match=rf"process {process.pid} on "):
            lease(folder, "lease", "it").__enter__()
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives, with all that its parent had opened
        with lease(folder, "lease", "it"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_asking_for_a_lease_keeps_nobody_from_it(tmp_path):
    folder, over = Folder.at(tmp_path), threading.Event()

    def ask():
        while not over.is_set():
            is_leased(folder, "lease")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(20):
            with lease(folder, "lease", "it"):
                assert is_leased(folder, "lease")
    finally:
        over.set()
        thread.join()


def test_of_many_one_has_the_lock(tmp_path):
    folder, held, most = Folder.at(tmp_path), [], []

    def take(_):
        for _ in range(20):
            with ExitStack() as stack:
                try:
                    stack.enter_context(lease(folder, "lease", "it"))
                except OutputError:
                    continue
                held.append(1)
                most.append(len(held))
                time.sleep(0.001)
                held.pop()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take, range(6)))
    assert max(most) == 1
    assert len(most) >= 20


def test_a_lease_on_a_network_file_system_is_renewed_and_expires(tmp_path, on_network, often):
    folder = Folder.at(tmp_path)
    leave(folder, 1)
    with pytest.raises(OutputError, match=r"process 1 on elsewhere, which renewed its lease \S+ 1 s ago"):
        lease(folder, "lease", "it").__enter__()
    until_stale = time.monotonic() + 1.2
    while is_leased(folder, "lease"):
        assert time.monotonic() < until_stale
        time.sleep(0.02)
    with lease(folder, "lease", "it"):
        first = folder.read("lease")
        time.sleep(0.3)
        assert folder.read("lease") != first
        assert renewal_age_s() < 0.3
        leave(folder, 0)  # another machine has taken it over
        time.sleep(0.2)
        assert holder(folder) == "elsewhere:1:x"
    assert holder(folder) == "elsewhere:1:x"


def test_a_process_id_counts_only_where_it_was_given(tmp_path, on_network, often):
    """After a restart of a container, its host name may be the same and its process id another process's."""
    folder, own = Folder.at(tmp_path), Holder.of_this_process()
    here = {"system": own.system, "begun": own.begun}
    leave(folder, 1, own.owner, **here)
    assert is_leased(folder, "lease")
    leave(folder, 1, own.owner, **here | {"begun": "1"})  # the id is another process's by now
    assert not is_leased(folder, "lease")
    leave(folder, 1, f"{socket.gethostname()}:99999999:x", system="another namespace", begun="1")
    assert is_leased(folder, "lease")  # nobody here can know
    time.sleep(1.1)
    assert not is_leased(folder, "lease")


def test_a_lease_of_a_container_ends_with_it(tmp_path, monkeypatch):
    try:
        process = holding(str(tmp_path), before=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
        if process.stdout.readline() != "held\n":
            pytest.skip("this system gives no namespace of process ids")
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    folder = Folder.at(tmp_path)
    assert is_leased(folder, "lease")
    left = json.loads((tmp_path / "lease").read_bytes())
    assert left["owner"].split(":")[1] == "1"  # the process is another one here
    assert left["system"] != Holder.of_this_process().system
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while is_leased(folder, "lease"):
        assert time.monotonic() < deadline
    monkeypatch.setattr("geotile.storage.file_lease.is_on_network", lambda folder: True)
    monkeypatch.setattr(geotile.storage.lease_holder, "STALE_S", 2.0)
    (tmp_path / "lease").write_text(json.dumps(left | {"at": time.time()}))
    assert is_leased(folder, "lease")
    time.sleep(2.1)
    with lease(folder, "lease", "it"):
        pass


def test_network_file_systems_are_known(tmp_path):
    device = os.stat(tmp_path).st_dev
    line = "36 35 {}:{} / /data rw,noatime shared:1 - {} server:/x rw\n"
    mounts = tmp_path / "mountinfo"
    for kind, wanted in (("nfs4", True), ("fuse.sshfs", True), ("ext4", False), ("overlay", False), ("fuseblk", False)):
        mounts.write_text(line.format(os.major(device), os.minor(device), kind))
        assert is_on_network(tmp_path, mounts) is wanted
    mounts.write_text(line.format(99, 99, "nfs"))
    assert not is_on_network(tmp_path, mounts)
    assert not is_on_network(tmp_path, tmp_path / "none")
