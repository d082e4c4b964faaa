"""The same call everywhere, the same rows; what workers lack is said before the run."""

from __future__ import annotations

import asyncio
import pickle
import platform
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import dask
import helpers
import numpy as np
import pytest
from dask.delayed import Delayed
from distributed import Client, LocalCluster, get_task_stream
from gateway import gateway
from helpers import crowd

import geotile
from geotile.imagery.file_array import source_of
from geotile.running.cluster import check_cluster
from geotile.storage.folder import Folder
from geotile.testing import ModelServer
from geotile.traffic import TrafficSettings, begin_run, end_traffic, waiting_for
from geotile.traffic.coordinator import GateReport
from geotile.traffic.limit import Tally

pytestmark = pytest.mark.slow

JOB = {"tile_size": 64, "overlap": 16, "region_size": 128, "pad": True}


@pytest.fixture
def path(write_tiff, noise):
    return write_tiff(noise)


@pytest.fixture
def want(path):
    with dask.config.set(scheduler="synchronous"):
        return geotile.detect(path, crowd, **JOB).to_csv()


# --- one job, everywhere


def answers(path, tmp_path, name):
    """All the ways to the answer: in memory, lazy, from a server, kept, and from a computed array."""
    yield geotile.detect(path, crowd, **JOB)
    yield geotile.detect(path, crowd, compute=False, **JOB).compute()
    with ModelServer(crowd) as server:
        yield geotile.detect(path, server.url, **JOB)
        yield geotile.detect(path, server.url, compute=False, **JOB).compute()
    job = JOB | {"checkpoint": tmp_path / name}
    yield geotile.detect(path, crowd, **job)
    again = geotile.detect(path, crowd, **job)
    assert again.attrs["report"].requests == 0
    yield again
    yield geotile.detect(geotile.cast(geotile.open_image(path) + 0, "uint8"), crowd, **JOB)


def test_the_same_rows_on_threads_and_processes(path, want, tmp_path, workers):
    with dask.config.set(scheduler="threads", num_workers=3):
        assert {found.to_csv() for found in answers(path, tmp_path, "threads")} == {want}
    with workers.as_current():
        assert {found.to_csv() for found in answers(path, tmp_path, "processes")} == {want}
    with LocalCluster(n_workers=2, processes=False, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
        assert {found.to_csv() for found in answers(path, tmp_path, "threads of a cluster")} == {want}


def test_the_same_rows_on_a_gateway(path, want, tmp_path):
    from dask_gateway import BasicAuth, Gateway

    with (
        gateway(tmp_path) as address,
        Gateway(address, auth=BasicAuth("me")) as there,
        there.new_cluster() as cluster,
        cluster.get_client() as client,
    ):
        cluster.scale(2)
        client.wait_for_workers(2, timeout=60)
        client.upload_file(helpers.__file__)  # these workers do not run in the tests' folder
        assert {found.to_csv() for found in answers(path, tmp_path, "cp")} == {want}
        report = geotile.detect_to(path, crowd, f"{tmp_path}/out/", **JOB)
        assert report.detections_after == len(want.splitlines()) - 1
        seen = []
        geotile.detect(path, crowd, progress=seen.append, **JOB)
        assert (seen[0].done, seen[-1].done, seen[-1].tiles) == (0, report.tiles, report.tiles)


def test_lazy_is_what_dask_knows(path, want, workers):
    lazy = geotile.detect(path, crowd, compute=False, **JOB)
    assert isinstance(lazy, Delayed)
    with workers.as_current():
        both = dask.compute(lazy, geotile.detect(path, crowd, compute=False, merge=None, **JOB))
    assert both[0].to_csv() == want
    assert len(both[1]) == both[0].attrs["report"].detections_before
    for wrong in ({"checkpoint": "cp"}, {"progress": True}):
        with pytest.raises(geotile.ArgumentError, match="compute=False cannot be combined with checkpoint or progress"):
            geotile.detect(path, crowd, compute=False, **wrong)


# --- found before the run


def run_with_worker(script: str, *words: str) -> str:
    """Start a scheduler and a worker whose Python runs `script` first; return what the job said."""
    code = f"{script}\nfrom distributed.cli.dask_worker import main\nmain()"
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        command = [sys.executable, "-c", code, cluster.scheduler_address, "--no-nanny", "--no-dashboard"]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with Client(cluster) as client:
                client.wait_for_workers(1, timeout=60)
                with pytest.raises(geotile.ArgumentError) as error:
                    geotile.detect(np.zeros(0) if words else geotile.testing.write_example(), crowd, **JOB)
                return str(error.value)
        finally:
            worker.kill()
            worker.wait()


NO_GEOTILE = """
import importlib.metadata as metadata
true = metadata.version
def version(name):
    if name == "geotile":
        raise metadata.PackageNotFoundError(name)
    return true(name)
metadata.version = version
"""


def test_a_worker_without_geotile_is_named():
    said = run_with_worker(NO_GEOTILE)
    assert "the Dask worker tcp://" in said
    assert "has no geotile. Install geotile" in said


def test_a_worker_with_another_geotile_is_named():
    said = run_with_worker(NO_GEOTILE.replace("raise metadata.PackageNotFoundError(name)", 'return "0.0.1"'))
    assert f"has geotile 0.0.1, and this process has {geotile.__version__}" in said


def test_a_worker_with_another_python_is_named():
    other = 'import platform; platform.python_version_tuple = lambda: ("3", "99", "0")'
    here = ".".join(platform.python_version_tuple()[:2])
    assert f"runs Python 3.99, and this process runs Python {here}" in run_with_worker(other)


class UntilLeft:
    """A model whose tiles after the first ones wait until the worker that has joined has left."""

    def __init__(self, flag):
        self.flag, self.asked = flag, 0

    def __call__(self, tile):
        self.asked += 1
        deadline = time.monotonic() + 60
        while self.asked > 9 and not self.flag.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return crowd(tile)


WITHOUT = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "geotile":
            raise ImportError("no geotile here")
sys.meta_path.insert(0, Nothing())
"""
OTHER = NO_GEOTILE.replace("raise metadata.PackageNotFoundError(name)", 'return "0.0.1"')


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (OTHER, f"it has geotile 0.0.1, and the run needs {geotile.__version__}"),
        (WITHOUT, "ImportError: no geotile here"),
    ],
)
def test_a_worker_that_joins_and_cannot_do_the_run_leaves_at_once(path, want, tmp_path, script, reason):
    late, said, flag = [], [], tmp_path / "left"

    def join():
        code = f"{script}\nfrom distributed.cli.dask_worker import main\nmain()"
        command = [sys.executable, "-c", code, cluster.scheduler_address, "--no-nanny", "--no-dashboard"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as worker:
            try:
                said.append(worker.communicate(timeout=50)[1])
            finally:
                worker.kill()
                flag.touch()

    def on_progress(progress):
        if not late and progress.done:
            late.append(threading.Thread(target=join))
            late[0].start()

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        assert geotile.detect(path, UntilLeft(flag), progress=on_progress, **JOB).to_csv() == want
        late[0].join()
        assert reason in said[0]
        assert len(client.nthreads()) == 1


def test_a_model_that_workers_cannot_load_is_named(path, workers, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def model(tile):\n    return [], []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from only_here import model

    with workers.as_current():
        with pytest.raises(
            geotile.ArgumentError, match=r"worker tcp://\S+ cannot load .*model.*No module named 'only_here'"
        ):
            geotile.detect(path, model, **JOB)
        lock = threading.Lock()
        with pytest.raises(geotile.ArgumentError, match=r"cannot be sent to workers .*factory=True"):
            geotile.detect(path, lambda tile: lock and ([], []), **JOB)


def test_the_scheduler_says_why_a_run_waits(workers):
    settings = TrafficSettings(concurrency=4, ready_timeout_s=60, outage_timeout_s=60)
    report = GateReport(
        process="p", worker=None, wanted=1, in_flight=0, tally=Tally(failed=9), consecutive_failures=9,
        last_failure="connection refused", models_fault=False, probe_result=None, suspects_outage=True,
    )  # fmt: skip
    with workers.as_current():
        begin_run("run-that-waits")
        assert waiting_for("run-that-waits", workers) == ""
        message = pickle.dumps((settings, report))
        workers.sync(workers.scheduler.geotile_traffic, run="run-that-waits", message=message)
        assert waiting_for("run-that-waits", workers) == "waiting for the model: connection refused"
        end_traffic("run-that-waits")
        assert waiting_for("run-that-waits", workers) == ""


def test_progress_says_why_a_run_waits_whatever_thread_shows_it(path, workers):
    """The client is that of the caller's context, which other threads do not have."""
    said, began = [], []

    def answer(tile):
        if not began:
            began.append(time.monotonic())
        elif time.monotonic() < began[0] + 3:
            raise RuntimeError("loading")
        return crowd(tile)

    def show(state):
        said.append(state.waiting_for)

    with workers.as_current(), ModelServer(answer) as model:
        found = geotile.detect(path, model.url, **JOB, concurrency=1, progress=show)
    assert found.attrs["report"].status == "SUCCESS"
    assert any("waiting for the model: " in each for each in said)


def test_a_worker_that_has_left_takes_no_share():
    """It reports until its process ends. Its share was taken from the others for ever, and the run stood still."""
    settings = TrafficSettings(concurrency=8, ready_timeout_s=60, outage_timeout_s=60)
    fields = {"tally": Tally(), "consecutive_failures": 0, "last_failure": "", "models_fault": False}
    fields |= {"wanted": 50, "in_flight": 8, "probe_result": None, "suspects_outage": False}
    with LocalCluster(n_workers=2, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        begin_run("run-of-two")

        def told(worker):
            message = pickle.dumps((settings, GateReport(process=worker, worker=worker, **fields)))
            return pickle.loads(client.sync(client.scheduler.geotile_traffic, run="run-of-two", message=message))

        goes, stays = client.scheduler_info()["workers"]
        assert told(goes.replace("127.0.0.1", "localhost")).cap == 8  # as a worker that was started with --host
        assert told(stays).cap == 0
        client.retire_workers([goes])
        assert told(stays).cap == 8
        assert told(goes).worker_left
        assert told(goes.replace("127.0.0.1", "localhost")).worker_left
        assert told(stays).cap == 8
        end_traffic("run-of-two")


async def drop_connection(dask_worker):
    """Break the worker's connections to the scheduler's handlers, once one is in use; its stream stays."""
    used = dask_worker.rpc.occupied
    while not (dropped := list(used.get(dask_worker.scheduler.addr, ()))):
        await asyncio.sleep(0)
    for comm in dropped:
        comm.abort()
    return len(dropped)


@pytest.mark.parametrize("processes", [False, True])
def test_a_connection_to_the_scheduler_that_breaks_costs_no_tile(path, want, processes):
    asked = threading.Event()

    def answer(tile):
        asked.set()
        time.sleep(0.2)
        return crowd(tile)

    with (
        ModelServer(answer) as model,
        LocalCluster(n_workers=2, processes=processes, protocol="tcp", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        run = pool.submit(geotile.detect, path, model.url, **JOB, concurrency=4)
        assert asked.wait(30)
        assert client.run(drop_connection, workers=list(cluster.scheduler.workers)[:1])
        found = run.result(120)
    assert found.attrs["report"].status == "SUCCESS"
    assert found.to_csv() == want


@pytest.mark.parametrize("processes", [False, True])
def test_workers_leave_while_their_requests_fail(path, want, tmp_path, processes, caplog):
    """No tile of theirs is lost, none is kept as failed, and other workers of their process go on."""
    asked, numbers = threading.Event(), count()

    def answer(tile):
        asked.set()
        time.sleep(0.2)
        if next(numbers) % 3 == 2:
            raise RuntimeError("one of three fails")
        return crowd(tile)

    with (
        ModelServer(answer) as model,
        LocalCluster(
            n_workers=3, threads_per_worker=1, processes=processes, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        job = JOB | {"concurrency": 6, "retries": 9, "checkpoint": tmp_path / "kept"}
        run = pool.submit(geotile.detect, path, model.url, **job)
        for _ in range(2):
            assert asked.wait(30)
            asked.clear()
            client.retire_workers(list(cluster.scheduler.workers)[:1])
        found = run.result(120)
        assert found.attrs["report"].status == "SUCCESS"
        assert found.to_csv() == want
        requests = model.requests
        assert geotile.detect(path, model.url, **job).to_csv() == want
        assert model.requests == requests
    assert "the coordinator cannot be reached" not in caplog.text


def test_an_image_that_workers_do_not_see_is_named(path, workers):
    with workers.as_current():
        source = source_of(geotile.open_image(path).data)
        Path(path).rename(f"{path}.away")  # as on another machine's disk
        with pytest.raises(geotile.ArgumentError, match=r"worker tcp://\S+ cannot open .*No such file"):
            check_cluster(crowd, source, [])


def test_a_relative_path_is_found_from_any_folder(path, workers, monkeypatch, want):
    monkeypatch.chdir(Path(path).parent)
    with workers.as_current():
        assert geotile.detect(Path(path).name, crowd, **JOB).to_csv() == want


def test_a_folder_that_workers_do_not_see_is_named(path, workers):
    folder = Folder("memory://cp")  # each process has its own
    with workers.as_current(), pytest.raises(geotile.ArgumentError, match=r"worker tcp://\S+ does not see memory://cp"):
        check_cluster(geotile.endpoint(crowd), None, [folder])


def test_a_cluster_without_workers_is_waited_for(path, want):
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
        threading.Timer(1.0, cluster.scale, (1,)).start()
        assert geotile.detect(path, crowd, **JOB).to_csv() == want


# --- ended everywhere


@pytest.mark.parametrize("remote", [False, True])
def test_the_run_of_a_client_that_is_gone_ends(path, workers, remote):
    """What its regions would still ask nobody waits for."""
    with ModelServer(crowd, latency_s=0.5) as server:
        code = f"""
import geotile, helpers
from distributed import Client
with Client({workers.scheduler.address!r}):
    geotile.detect({path!r}, {server.url!r} if {remote} else helpers.Slow(), concurrency=2, **{JOB})
"""
        env = {"PYTHONPATH": str(geotile.__path__[0]) + "/../tests"}
        client = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while not any(workers.processing().values()) or (remote and server.requests < 2):
            assert time.monotonic() < deadline, client.communicate()
            time.sleep(0.05)
        client.kill()
        client.wait()
        deadline = time.monotonic() + 30
        while any(workers.run(lambda dask_worker: dask_worker.state.executing_count).values()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        asked = server.requests
        time.sleep(1.2)
        assert server.requests == asked


# --- seen


_asked, _count = threading.Event(), count()


def slow(tile):
    if next(_count) % 5 == 4:  # the first is asked before the run begins
        _asked.set()
    time.sleep(0.1)
    return crowd(tile)


def slow_classes(tile):
    slow(tile)
    return np.zeros(tile.shape[1:], np.uint8)


def slow_vector(tile):
    slow(tile)
    return np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("call", "model", "output", "options", "closed"),
    [
        ("detect", slow, [], {}, "client"),
        ("detect_to", slow, ["found.geojson"], {}, "cluster"),
        ("predict_to", slow_classes, ["classes.tif"], {"classes": ["a", "b"]}, "client"),
        ("embed", slow_vector, [], {}, "cluster"),
    ],
)
def test_closing_the_client_or_the_cluster_during_a_run_is_named(
    path, tmp_path, call, model, output, options, closed
):  # fmt: skip
    """The progress of a run and the check of late workers end without an error of their own."""
    _asked.clear()
    paths = [str(tmp_path / name) for name in output]
    options |= {"tile_size": 64, "overlap": 16, "region_size": 64, "progress": lambda state: None}
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        client = Client(cluster)
        closing = threading.Thread(
            target=lambda: _asked.wait(30) and {"client": client, "cluster": cluster}[closed].close()
        )
        closing.start()
        with pytest.raises(geotile.ClusterError, match=r"the Dask cluster was lost .*cancelled"):
            getattr(geotile, call)(path, model, *paths, **options)
        closing.join()
        client.close()


def test_the_cluster_tells_how_far_it_is(path, workers):
    seen = []
    with ModelServer(crowd, latency_s=0.02) as server, workers.as_current():
        found = geotile.detect(path, server.url, progress=seen.append, concurrency=4, **JOB)
    report = found.attrs["report"]
    assert [state.done for state in seen] == sorted(state.done for state in seen)
    assert seen[0].done == 0
    assert seen[-1].done == seen[-1].tiles == report.tiles
    assert any(0 < state.done < state.tiles for state in seen)
    late = seen[-2]
    assert 0 < late.requests <= report.requests
    assert 0 < late.detections <= report.detections_before
    assert late.eta_s is not None


def test_workers_serve_counters(path, workers):
    with workers.as_current():
        report = geotile.detect(path, crowd, **JOB).attrs["report"]
    total = {"tiles": 0.0, "detections": 0.0}
    for info in workers.scheduler_info(n_workers=-1)["workers"].values():
        port = info["services"]["dashboard"]
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        for name in total:
            total[name] += sum(
                float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"geotile_{name}_total")
            )
        assert 'geotile_step_seconds_total{step="model"}' in text
    assert total["tiles"] >= report.tiles
    assert total["detections"] >= report.detections_before


def test_tasks_have_names_that_tell_the_story(path, workers):
    with workers.as_current():
        with get_task_stream(workers) as stream:
            geotile.detect(path, crowd, **JOB | {"tile_size": 32, "overlap": 8, "region_size": 64})
        names = {dask.utils.key_split(record["key"]) for record in stream.data}
    assert names - {"finalize-hlgfinalizecompute", "job-run", "image-run"} == {
        "detect-region",
        "detect-region-partial",
        "detect-region-aggregate",
    }
