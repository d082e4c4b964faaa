"""A running service among hostile files, full tables of files, idle connections and processes that die."""

import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import cli, crowd
from service_process import ServiceProcess, reasons, request, until

import geotile
from geotile.service.folder_queue import FolderQueue
from geotile.service.inspections import Inspections
from geotile.storage.folder import Folder
from geotile.testing import ModelServer

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "jobs"


@pytest.fixture
def path(write_tiff, noise):
    return write_tiff(noise)


@pytest.fixture
def said(tmp_path, path):
    """A function that returns a request by its id."""
    return lambda job_id, url, **more: request(
        job_id, path, url, [{"type": "File", "path": str(tmp_path / "out")}], **more
    )


# --- files that are no requests


def hostile(folder) -> dict[str, str]:
    """Put everything into a folder that has the name of a request and is none; return a part of each reason."""
    folder.mkdir(exist_ok=True)
    (folder / "nested.json").write_bytes(100_000 * b"[")
    os.mkfifo(folder / "pipe.json")
    (folder / "zero.json").symlink_to("/dev/zero")
    (folder / "nowhere.json").symlink_to("/no/such/file")
    (folder / "folder.json" / "inside").mkdir(parents=True)
    (folder / "half.json").write_text('{"jobId": "a')
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00{")
    (folder / "large.json").write_bytes(b"x")
    os.truncate(folder / "large.json", 10 * 2**30)
    (folder / "surrogate.json").write_text('{"jobId": "\\ud800"}')
    (folder / f"{250 * 'n'}.json").write_text("{}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.json"))  # a path of at most 107 bytes
    with open(os.fsencode(folder) + b"/\xff.json", "wb") as file:
        file.write(b"{}")
    (folder / "\x1b[31mred\n.json").write_text("{}")
    kinds = {"pipe": "a named pipe", "zero": "a symbolic link", "nowhere": "a symbolic link", "folder": "a folder"}
    return {name: f"{name}.json is {kind}" for name, kind in (kinds | {"socket": "a socket"}).items()} | {
        "nested": "must not be nested this deeply", "half": "valid JSON", "binary": "valid JSON", "large": "at most 1,048,576 bytes",
        "surrogate": "half of a character", "\\xff": "jobId must be given",
        "\\x1b[31mred\\n": "jobId must be given", 200 * "n": "jobId must be given",
    }  # fmt: skip


def assert_all_failed(folder, wanted):
    found = reasons(folder)
    assert len(found) == len(wanted), found
    for name, text in wanted.items():
        (reason,) = [reason for file, reason in found.items() if file.startswith(name)]
        assert text in reason, (name, reason)
    assert not [name for name in os.listdir(folder) if name.endswith(".json") and name[0] != "."]


def test_once_ends_whatever_lies_in_the_folder(folder, said, tmp_path, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    wanted = hostile(folder)
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "zero.tif").symlink_to("/dev/zero")
    os.utime(folder / "half.json", (time.time() + 1e6,) * 2)  # a clock that is ahead
    (folder / ".hidden.json").write_text("{}")
    (folder / "notes.txt").write_text("{}")
    with ModelServer(crowd) as model:
        geotile.submit(said("good", model.url), folder)
        for name in ("image-pipe", "image-zero"):
            image = str(tmp_path / f"{name.removeprefix('image-')}.tif")
            geotile.submit(said(name, model.url) | {"imageUrls": [image]}, folder)
            wanted[name] = "neither a file nor a folder"
        assert {job.status for job in geotile.jobs(folder)} == {"QUEUED"}
        geotile.serve(folder, once=True)
    assert_all_failed(folder, wanted)
    assert (folder / "done" / "good.json").exists()


def test_a_request_that_is_being_written_is_waited_for(folder, said):
    with ModelServer(crowd) as model, ServiceProcess(folder) as service:
        text = json.dumps(said("slow", model.url))
        with open(folder / "slow.json", "w") as file:
            for start in range(0, len(text), 100):
                file.write(text[start : start + 100])
                file.flush()
                time.sleep(0.4)
        until(lambda: (folder / "done" / "slow.json").exists())
        assert not service.failed()


def test_submit_reads_a_limited_file(folder):
    with pytest.raises(geotile.ArgumentError, match="at most 1,048,576 bytes; got more"):
        geotile.submit("/dev/zero", folder)


# --- errors of the queue


def test_errors_of_the_queue_are_shown_and_tried_again(folder, said):
    with ModelServer(crowd) as model, ServiceProcess(folder) as service:
        asked = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=10)

        def healthz():
            try:
                asked.request("GET", "/healthz")
                answer = asked.getresponse()
            except ConnectionError:  # the service closes a connection that was idle for two seconds
                asked.close()
                return healthz()
            return answer.status, answer.read().decode()

        assert healthz() == (200, "200 OK")
        before = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (8, before[1]))
        geotile.submit(said("first", model.url), folder)
        until(lambda: re.search("^intake: .*Too many open files", healthz()[1], re.MULTILINE))
        assert healthz()[0] == 200  # the loops turn
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, before)
        until(lambda: (folder / "done" / "first.json").exists())
        os.rename(folder, folder.with_name("away"))
        until(lambda: "No such file or directory" in healthz()[1])
        assert service.get("readyz")[0] == 503
        assert 'geotile_service_errors{part="intake"}' in service.get("metrics")[1]
        os.rename(folder.with_name("away"), folder)
        geotile.submit(said("second", model.url), folder)
        until(lambda: (folder / "done" / "second.json").exists())
        assert healthz() == (200, "200 OK")
        asked.close()


def test_a_request_that_takes_the_place_of_a_running_one_is_not_lost(folder, said):
    """A producer writes its next request under the same name, whether the first one succeeds or fails."""
    folder.mkdir()

    def replace(job_id, url):
        (folder / "draft").write_text(json.dumps(said(job_id, url)))
        os.replace(folder / "draft", folder / "job.json")

    def answer(tile):
        if not asked:
            asked.append(tile)
            replace("second", model.url)
        return crowd(tile)

    asked = []
    with ModelServer(answer) as model:
        replace("first", model.url)
        geotile.serve(folder, once=True, concurrency=1)
    assert {each.job_id: each.status for each in geotile.jobs(folder)} == {"first": "SUCCESS", "second": "SUCCESS"}
    for name, job_id in (("job", "first"), ("job-2", "second")):
        assert json.loads((folder / "done" / f"{name}.json").read_text())["jobId"] == job_id
        assert json.loads((folder / "done" / f"{name}.status.json").read_text())["job_id"] == job_id
    queue = FolderQueue(folder)
    replace("third", "http://127.0.0.1:9/")
    [delivery] = queue.receive(1, 0)
    (folder / "job.json").touch()  # it is the same request
    queue.reject(delivery, {})
    replace("fourth", "http://127.0.0.1:9/")
    [delivery] = queue.receive(1, 0)
    replace("fifth", "http://127.0.0.1:9/")
    queue.reject(delivery, {})
    assert sorted(os.listdir(folder / "failed")) == ["job-2.json", "job-2.status.json", "job.json", "job.status.json"]
    assert [json.loads(each.body)["jobId"] for each in queue.receive(1, 0)] == ["fifth"]


def test_a_request_that_cannot_be_moved_ends_once_with_an_error(folder, said, monkeypatch):
    monkeypatch.setattr("geotile.service.loop._LOST_TIMEOUT_S", 1.5)
    folder.mkdir()
    (folder / "done").write_text("a file")
    with ModelServer(crowd) as model:
        geotile.submit(said("a", model.url), folder)
        with pytest.raises(geotile.ServiceError, match="is finished and cannot be moved"):
            geotile.serve(folder, once=True)
        asked = model.requests
        (folder / "done").unlink()
        geotile.serve(folder, once=True)
        assert model.requests == asked
    assert (folder / "done" / "a.json").exists()


# --- images that end the process

KILLER = """
import os, signal, time
import geotile.planning.opened_image as opened, geotile.service.admission as admission
def opened_image(url, *args):
    if "killer" in url:
        time.sleep(0.3)  # others are being inspected meanwhile
        os.kill(os.getpid(), signal.SIGKILL)
    return opened.opened_image(url, *args)
admission.opened_image = opened_image
"""


def test_an_image_that_ends_the_process_is_given_up_and_no_other(folder, said, tmp_path):
    deaths = 0
    with ModelServer(crowd) as model:
        geotile.submit(said("killer", model.url) | {"imageUrls": [str(tmp_path / "killer.tif")]}, folder)
        for i in range(3):
            geotile.submit(said(f"good-{i}", model.url), folder)
        while True:
            with ServiceProcess(folder, "--once", "--deliveries", 2, before=KILLER) as service:
                if service.process.wait(60) == 0:
                    break
                deaths += 1
    assert deaths == 2
    assert list(reasons(folder)) == ["killer"]
    assert "each of 2 processes ended while it read the headers" in reasons(folder)["killer"]
    records = {record.job_id: record for record in geotile.jobs(folder)}
    assert [records[f"good-{i}"].status for i in range(3)] == 3 * ["SUCCESS"]
    assert list((folder / "state" / "inspections").iterdir()) == []


# --- a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_uses_up_no_attempts(folder, said, small_disk):
    words = ("--state", small_disk, "--max-attempts", 2, "--retry-delay-s", 0.1, "--concurrency", 1)
    with ModelServer(crowd, latency_s=0.1) as model, ServiceProcess(folder, *words, "--region-size", 128) as service:
        geotile.submit(said("a", model.url), folder)
        until(lambda: list(small_disk.glob("work/a/0/checkpoint/*/*.parquet")))
        with open(small_disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        until(lambda: re.search(r'errors\{part="disk"\} ([2-9]|\d\d)', service.get("metrics")[1]))
        assert "disk: " in service.get("healthz")[1]
        assert not service.failed()
        (small_disk / "filler").unlink()
        until(lambda: (folder / "done" / "a.json").exists())
        assert service.get("healthz") == (200, "200 OK")
    (record,) = geotile.jobs(folder, small_disk)
    assert (record.status, len(record.attempts)) == ("SUCCESS", 1)


# --- the loops and the address


def test_healthz_names_the_loop_that_no_longer_turns(folder):
    stuck = "import time, geotile.service.folder_queue as q, geotile.service.intake as i\ni._MAX_AGE_S = 1.0\n"
    stuck += "q.read_request = lambda path: time.sleep(1000)"  # as a disk that does not answer
    with ServiceProcess(folder, before=stuck) as service:
        assert service.get("healthz")[0] == 200
        (folder / "a.json").write_text("{}")
        until(lambda: service.get("healthz")[0] == 503)
        assert service.get("healthz")[1].splitlines()[1].startswith("intake: has not turned for ")


def test_hostile_files_and_idle_connections_do_not_keep_others_out(folder, said, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    idle = []
    try:
        with ModelServer(crowd) as model, ServiceProcess(folder) as service:
            address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
            idle.extend(socket.create_connection(address) for _ in range(1020))
            for each in idle[::3]:
                each.sendall(b"GET /healthz HTTP/1.1\r\n")  # and never the rest
            wanted = hostile(folder)
            geotile.submit(said("good", model.url), folder)
            began = time.monotonic()
            assert len(os.listdir(f"/proc/{service.process.pid}/fd")) < 400
            assert service.get("healthz", timeout=60) == (200, "200 OK")
            print(f"/healthz answered after {time.monotonic() - began:.1f} s")
            until(lambda: len(service.failed()) == len(wanted) and (folder / "done" / "good.json").exists())
            assert_all_failed(folder, wanted)
            assert service.get("readyz")[0] == 200
    finally:
        for each in idle:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- a running job


def test_a_running_job_shows_what_it_does(folder, said, tmp_path):
    often = "import geotile.service.job_progress as p\np._LINE_INTERVAL_S = 0.3"
    words = ("--concurrency", 1, "--region-size", 128)
    with (
        ModelServer(crowd, latency_s=0.4) as model,
        open(tmp_path / "lines", "w") as lines,
        ServiceProcess(folder, *words, before=often, stdout=lines) as service,
    ):
        geotile.submit(said("a", model.url), folder)

        def progress():
            (record,) = geotile.jobs(folder)
            now = record.images[0].progress if record.images else None
            return now if now is not None and now.done >= 2 else None

        now = until(progress)
        assert (
            2 <= now.done < now.tiles == geotile.plan(said("a", "x")["imageUrls"][0], tile_size=128, overlap=32).tiles
        )
        assert now.failures == 0
        assert 0.5 < now.tiles_per_s < 3
        assert now.left_s == pytest.approx((now.tiles - now.done) / now.tiles_per_s, rel=0.2)
        assert now.process.startswith(f"{service.process.pid} on ")
        table = cli("jobs", "--queue", folder).stdout
        assert re.search(rf"a +IN_PROGRESS .* \d+ of {now.tiles} +0 +\d\.\d +0:00:\d\d", table), table
        metrics = service.get("metrics")[1]
        assert float(re.search(r'job_tiles_done\{job="a"\} (\S+)', metrics)[1]) >= 2
        assert 'geotile_service_job_seconds_left{job="a"}' in metrics
        told = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
        (told, *_) = [each for each in told if "progress" in each]
        assert (told["status"], told["progress"]["tiles"]) == ("IN_PROGRESS", now.tiles)
        assert "to go" in told["message"]
        model.latency_s = 0.0
        until(lambda: (folder / "done" / "a.json").exists())
        assert 'job="a"' not in service.get("metrics")[1]
    (record,) = geotile.jobs(folder)
    assert (record.images[0].progress, record.waiting_for) == (None, "")
    assert re.search(rf"a +SUCCESS .* {now.tiles} ", cli("jobs", "--queue", folder).stdout)


def test_a_job_whose_model_does_not_answer_shows_that_it_waits(folder, said, tmp_path):
    often = "import geotile.service.job_progress as p\np._LINE_INTERVAL_S = 1.5"
    with (
        ModelServer(crowd, latency_s=60) as model,
        open(tmp_path / "lines", "w") as lines,
        ServiceProcess(folder, before=often, stdout=lines),
    ):
        geotile.submit(said("a", model.url), folder)
        geotile.submit(said("b", "http://127.0.0.1:9/x"), folder)

        def told():
            return [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines() if '"progress"' in line]

        until(lambda: len(told()) >= 2)
        assert {each["progress"]["done"] for each in told()} == {0}
        status = folder / "state" / "work" / "a" / "0" / "checkpoint" / "status.json"
        until(lambda: json.loads(status.read_text())["seconds"] > 3)
        record = until(lambda: next((each for each in geotile.jobs(folder) if each.waiting_for), None))
        reason = "waiting for the model: http://127.0.0.1:9/x did not respond: connection refused"
        assert (record.job_id, record.status, record.waiting_for[: len(reason)]) == ("b", "IN_PROGRESS", reason)
        assert reason in cli("jobs", "--queue", folder).stdout


def figures(folder):
    """The record of the only job, and the tiles that its latest attempt had done."""
    (record,) = geotile.jobs(folder)
    now = record.images[0].progress if record.images else None
    return record, now, now.done if now is not None else 0


@pytest.mark.parametrize("end", ["kill", "signal twice", "cancel"])
def test_a_job_that_was_stopped_keeps_its_last_figures(folder, said, end):
    words = ("--concurrency", 1, "--region-size", 128, "--grace-s", 300)
    with ModelServer(crowd, latency_s=0.4) as model, ServiceProcess(folder, *words) as service:
        geotile.submit(said("a", model.url), folder)
        until(lambda: figures(folder)[2] >= 3)
        if end == "cancel":
            geotile.cancel("a", folder)
            until(lambda: service.failed())
        elif end == "kill":
            service.process.kill()
            service.process.wait()
        else:
            service.process.terminate()
            until(lambda: any("stopping; 1 job has 300 s; signal again to end now" in line for line in service.logs), 2)
            service.process.terminate()
            assert service.process.wait(15) == 0
            assert "stopped; 1 request returned to the queue" in service.logs[-1]
    assert not [line for line in service.logs if "failed" in line and '"ERROR"' not in line and "0 failed" not in line]
    record, now, done = figures(folder)
    assert (now.running, now.failures) == (False, 0)
    assert 3 <= done < now.tiles
    table = cli("jobs", "--queue", folder).stdout
    assert re.search(rf"a +{record.status} .* {done} of {now.tiles} +0 ", table), table
    image = record.images[0]
    if end == "kill":
        assert (record.status, record.waiting_for) == ("IN_PROGRESS", "waiting; its process has ended")
        assert record.waiting_for in table
    else:
        assert record.status == {"cancel": "CANCELLED"}.get(end, "QUEUED")
        assert (image.tiles, image.requests) == (now.tiles, done)
        assert image.seconds > 1


def test_jobs_are_cancelled_from_another_process(folder, said):
    words = ("--concurrency", 1, "--region-size", 128, "--max-jobs", 1)
    with ModelServer(crowd, latency_s=0.4) as model, ServiceProcess(folder, *words) as service:
        geotile.submit(said("running", model.url), folder)
        until(lambda: len(list((folder / "state" / "work").glob("running/0/checkpoint/*/*.parquet"))) >= 2)
        geotile.submit(said("waiting", model.url), folder)
        assert "waiting: was QUEUED" in cli("jobs", "--queue", folder, "--cancel", "waiting").stdout
        assert geotile.cancel("running", folder).status == "IN_PROGRESS"
        began = time.monotonic()
        until(lambda: set(service.failed()) == {"running", "waiting"})
        assert time.monotonic() - began < 5
        assert set(service.failed().values()) == {"the job was cancelled"}
        assert {job.job_id: job.status for job in geotile.jobs(folder)} == dict.fromkeys(
            ("running", "waiting"), "CANCELLED"
        )
        geotile.submit(said("absent", "http://127.0.0.1:1/invocations"), folder)
        until(lambda: any("waiting up to" in line for line in service.logs))
        geotile.cancel("absent", folder)  # while it waits for its model
        until(lambda: "absent" in service.failed(), 8)
        for job_id, text in (("running", "has ended as CANCELLED"), ("other", "has no job 'other'")):
            with pytest.raises(geotile.ServiceError, match=text):
                geotile.cancel(job_id, folder)
        asked, model.latency_s = model.requests, 0.0
        geotile.submit(said("running", model.url), folder)  # it goes on from the regions that are kept
        until(lambda: (folder / "done" / "running.json").exists())
        assert service.get("healthz") == (200, "200 OK")
    records = {job.job_id: job for job in geotile.jobs(folder)}
    again, image = model.requests - asked, records["running"].images[0]
    assert again <= image.tiles - 2
    assert again < image.requests <= model.requests  # one was aborted


def test_a_job_that_waits_for_its_next_attempt_is_cancelled(folder, said):
    words = ("--retry-delay-s", 900, "-O", "ready_timeout_s=0")
    with ServiceProcess(folder, *words) as service:
        geotile.submit(said("a", "http://127.0.0.1:1/invocations"), folder)
        until(lambda: any(job.attempts and job.attempts[0].error for job in geotile.jobs(folder)))
        until(lambda: geotile.jobs(folder)[0].waiting_for == "waiting for its next attempt")
        began = time.monotonic()
        geotile.cancel("a", folder)
        until(lambda: service.failed())
        assert time.monotonic() - began < 8
    (record,) = geotile.jobs(folder)
    assert (record.status, len(record.attempts)) == ("CANCELLED", 1)


def test_a_job_is_cancelled_without_a_service(folder, said):
    geotile.submit(said("a", "http://127.0.0.1:1/invocations"), folder)
    geotile.cancel("a", folder)
    assert [job.status for job in geotile.jobs(folder)] == ["CANCELLED"]
    geotile.serve(folder, once=True)
    assert reasons(folder) == {"a": "the job was cancelled"}
    assert [job.status for job in geotile.jobs(folder)] == ["CANCELLED"]


@pytest.mark.timeout(30)
def test_an_inspection_that_waits_to_be_alone_holds_no_other_up(tmp_path):
    inspections = Inspections(Folder.at(tmp_path), 3, patience_s=0.3)
    order, patient = [], threading.Event()

    def inspect(name, alone, leave=None):
        with inspections._place(alone):
            order.append(name)
            if leave is not None:
                leave.wait()

    with ThreadPoolExecutor(4) as pool:
        pool.submit(inspect, "slow", False, patient)
        while not order:
            time.sleep(0.01)
        alone = pool.submit(inspect, "alone", True)
        pool.submit(inspect, "another", False).result()  # the one that must be alone has waited for a moment only
        time.sleep(0.5)
        late = pool.submit(inspect, "late", False)  # now it has waited for too long
        time.sleep(0.1)
        assert order == ["slow", "another"]
        patient.set()
        alone.result()
        late.result()
    assert order == ["slow", "another", "alone", "late"]


@pytest.mark.slow
def test_an_image_that_hangs_holds_no_other_job_and_not_the_end_of_the_process(folder, said, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent, ModelServer(crowd) as model:
        hanging = [f"http://127.0.0.1:{silent.getsockname()[1]}/{k}.tif" for k in range(3)]
        for k, url in enumerate(hanging):
            geotile.submit(said(f"a{k}", model.url) | {"imageUrls": [url]}, folder)
        for k in range(3):
            geotile.submit(said(f"b{k}", model.url), folder)
        with ServiceProcess(folder, "--max-jobs-per-endpoint", 1, "--grace-s", 1) as service:
            until(lambda: all((folder / "done" / f"b{k}.json").exists() for k in range(3)))
            assert service.get("healthz")[0] == 200
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(15) == 0
    assert {path.stem for path in folder.glob("*.json")} == {"a0", "a1", "a2"}
