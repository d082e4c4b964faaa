"""How many requests at once, in whose hands, and when none: the law, the shares, the circuit."""

import heapq
import itertools
import math
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import Counting
from hypothesis import given, settings
from hypothesis import strategies as st

import geotile
from geotile.core.daemon_pool import DaemonPool
from geotile.testing import ModelServer
from geotile.traffic.circuit import Circuit
from geotile.traffic.coordinator import Coordinator, GateReport, TrafficSettings
from geotile.traffic.gate import Gate
from geotile.traffic.limit import AutoLimit, GivenLimit, Tally
from geotile.traffic.run_registry import RunRegistry
from geotile.traffic.start import traffic_settings


def simulate(slots, queue, latency, seconds=180.0, seed=1):
    """Discrete events: a server of `slots(t)` places and a queue; what is refused waits up to half a second.

    Returns throughput over the best possible, and the share of requests refused, both after the first minute.
    """
    rng, limit, now, events, order = random.Random(seed), AutoLimit(), 0.0, [], 0
    busy = flying = answered = refused = 0
    waiting, tally = [], []

    def put(at, kind, sent=0.0):
        nonlocal order
        order += 1
        heapq.heappush(events, (at, order, kind, sent))

    put(0, "observe")
    while now < seconds:
        now, _, kind, sent = heapq.heappop(events)
        late = now > 60
        if kind == "done":
            busy, flying, answered = busy - 1, flying - 1, answered + late
            tally.append(Tally(answered=1, latency_s=now - sent, latency_s2=(now - sent) ** 2, reports=0, busy=0))
        elif kind == "refused":
            refused += late
            tally.append(Tally(throttled=1, reports=0, busy=0))
            put(now + rng.uniform(0, 0.5), "free")
        elif kind == "free":
            flying -= 1
        elif kind == "observe":
            limit.observe(now, sum(tally, Tally()))
            tally = []
            put(now + 0.1, "observe")
        while flying < limit.limit:
            flying += 1
            if busy + len(waiting) < slots(now) + queue:
                waiting.append(now)
            else:
                put(now + 0.002, "refused")
        while waiting and busy < slots(now):
            busy += 1
            put(now + latency(rng), "done", waiting.pop(0))
    best = sum(slots(60 + k) for k in range(int(seconds) - 60)) / latency.mean
    return answered / best, refused / max(1, answered + refused)


class Latency:
    def __init__(self, mean, sigma):
        self.mean, self.sigma, self.mu = mean, sigma, math.log(mean) - sigma**2 / 2

    def __call__(self, rng):
        return rng.lognormvariate(self.mu, self.sigma)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.05, 0.5])
@pytest.mark.parametrize("queue", [0, 16, 10_000])
@pytest.mark.parametrize(
    "slots",
    [lambda t: 16, lambda t: 1, lambda t: 8 if t < 90 else 24, lambda t: 24 if t < 90 else 12],
    ids=["16", "1", "8 to 24", "24 to 12"],
)
def test_the_law_keeps_the_server_busy_and_is_hardly_refused(slots, queue, sigma):
    throughput, refused = simulate(slots, queue, Latency(0.05, sigma))
    assert throughput >= 0.9
    assert refused < 0.01


def report(process, wanted, in_flight, **more):
    fields = {
        "tally": Tally(), "consecutive_failures": 0, "last_failure": "", "models_fault": True, "probe_result": None,
        "suspects_outage": False,
    }  # fmt: skip
    return GateReport(process=process, worker=f"tcp://{process}", wanted=wanted, in_flight=in_flight, **fields | more)


@settings(max_examples=200)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 20), st.integers(0, 20)), max_size=60),
)
def test_requests_in_flight_never_exceed_the_limit_in_any_order_of_reports(concurrency, story):
    """Processes start what they are allowed between a report and its allowance, and finish at any time."""
    coordinator = Coordinator(TrafficSettings(concurrency=concurrency, ready_timeout_s=1, outage_timeout_s=1))
    cap, flying = dict.fromkeys("abcde", 0), dict.fromkeys("abcde", 0)
    for now, (name, wanted, ended) in enumerate(story):
        flying[name] = max(0, flying[name] - ended)
        sent = report(name, max(wanted, flying[name]), flying[name])
        flying[name] = max(flying[name], min(cap[name], wanted))  # between the report and the allowance
        cap[name] = coordinator.update(sent, now).cap
        flying[name] = max(flying[name], min(cap[name], wanted))
        assert sum(flying.values()) <= concurrency


def test_the_share_moves_to_those_that_have_tiles_and_back_from_the_dead():
    coordinator = Coordinator(TrafficSettings(concurrency=9, ready_timeout_s=1, outage_timeout_s=1))
    assert coordinator.update(report("a", 50, 0), 0).cap == 9
    assert coordinator.update(report("b", 50, 0), 0).cap == 0  # a has it all, until its next report
    assert coordinator.update(report("a", 50, 9), 0.1).cap == 5
    assert coordinator.update(report("b", 50, 0), 0.1).cap == 0
    assert coordinator.update(report("a", 50, 5), 0.2).cap == 5
    assert coordinator.update(report("b", 50, 0), 0.2).cap == 4
    assert coordinator.update(report("a", 2, 2), 0.3).cap == 2  # its last tiles
    assert coordinator.update(report("a", 2, 2), 0.4).cap == 2
    assert coordinator.update(report("b", 50, 4), 0.4).cap == 7
    coordinator.remove_worker("tcp://a")
    assert coordinator.update(report("b", 50, 7), 0.5).cap == 9


def test_the_circuit_opens_probes_tries_and_closes():
    circuit = Circuit(ready_timeout_s=5, outage_timeout_s=60)
    circuit.record_response(0, 0.1, 0)
    for now in (1, 1.1, 1.2, 1.3, 1.4):
        circuit.record_failures(now, 1, False, "reset")
        assert circuit.state == "closed"
    circuit.record_failures(1.6, 1, False, "reset")
    assert circuit.state == "open"
    assert circuit.start_probe(1.6)
    assert not circuit.start_probe(1.7)  # one at a time
    circuit.record_probe(1.8, "refused")
    assert (circuit.state, circuit.outages, circuit.start_probe(1.9)) == ("open", 1, False)
    assert circuit.waiting_for == "waiting for the model: refused"
    assert circuit.start_probe(2.1)
    circuit.record_probe(2.1, None)
    assert circuit.state == "trial"
    circuit.record_failures(2.2, 2, True, "503")  # of requests that were sent before
    assert (circuit.state, circuit.outages) == ("trial", 1)
    circuit.record_failures(2.2, 1, False, "500", of_trial=True)
    assert circuit.state == "open"
    assert circuit.start_probe(3)
    circuit.record_probe(3, None)
    circuit.record_response(3.4, 0.1, 0.5)  # sent before the failures
    assert circuit.state == "trial"
    circuit.record_response(3.5, 0.1, 3.4)
    assert (circuit.state, round(circuit.open_s, 1), circuit.stop_reason) == ("closed", 1.9, None)
    assert circuit.waiting_for == ""
    circuit.record_failures(10, 9, False, "reset")
    circuit.record_failures(11, 1, False, "reset")
    assert (circuit.start_probe(11), circuit.start_probe(75), circuit.stop_reason.split(";")[0]) == (
        True, False, "no request to the model succeeded for outage_timeout_s=60 s",
    )  # fmt: skip


def test_the_probe_of_a_process_that_goes_is_another_ones(caplog):
    """It was waited for during 60 s, and a run with less patience gave up although the model was back."""
    coordinator = Coordinator(TrafficSettings(concurrency=9, ready_timeout_s=30, outage_timeout_s=30))
    assert not coordinator.update(report("a", 50, 0), 0).probe
    assert coordinator.update(report("a", 50, 0, suspects_outage=True), 1).probe
    assert not coordinator.update(report("b", 50, 0), 1.1).probe
    coordinator.remove_worker("tcp://b")  # another one
    assert not coordinator.update(report("c", 50, 0), 1.2).probe
    coordinator.remove_worker("tcp://a")
    assert not coordinator.update(report("d", 0, 0), 1.3).probe  # its gate ends before it would
    assert coordinator.update(report("c", 50, 0), 1.4).probe
    assert coordinator.update(report("c", 50, 0, probe_result=(None,)), 1.5).state == "trial"
    for now in (32, 33, 34):
        assert coordinator.update(report("c", 50, 0), now).stop_reason
    assert caplog.text.count("the run stops and keeps the results so far") == 1


def test_a_job_that_is_cancelled_takes_no_probe_from_others_of_its_endpoint():
    runs = RunRegistry()
    group = TrafficSettings(concurrency=9, ready_timeout_s=30, outage_timeout_s=30, group="model")
    runs.update("a", group, report("a", 50, 0))
    runs.update("b", group, report("b", 50, 0))
    assert runs.update("a", group, report("a", 50, 0, suspects_outage=True)).probe
    assert not runs.update("b", group, report("b", 50, 0)).probe
    runs.finish("a")
    assert runs.update("b", group, report("b", 50, 0)).probe


def test_a_server_without_a_limit_is_sent_as_many_as_there_can_be():
    """Throughput that still grew at the last doubling divided by zero, and half of the tiles were lost."""
    limit, now = AutoLimit(max_limit=64), 0.0
    while now < 60:
        now += 0.1
        limit.observe(now, Tally(answered=limit.limit, latency_s=0.1 * limit.limit, latency_s2=0.01 * limit.limit))
    assert limit.limit == 64


def test_a_given_number_is_halved_by_refusals_and_grows_again():
    limit, now, seen = GivenLimit(32), 0.0, []
    while now < 100:
        now += 0.1
        full = now < 1.2
        limit.observe(now, Tally(answered=limit.limit, latency_s=0.1 * limit.limit, throttled=9 if full else 0))
        seen.append(limit.limit)
    assert seen[:9] == [16, 16, 8, 8, 4, 4, 2, 2, 1]
    assert seen[-1] == max(seen) == 32
    assert sorted(set(seen[8:])) == [1, 2, 3, 4, 6, 9, 13, 19, 28, 32]


@pytest.mark.parametrize("capacity", [1, 3, 6, 15])
def test_a_given_number_settles_at_what_the_server_takes(capacity):
    """A tile that is refused keeps its place, so one refusal is all that is seen of a place too many."""
    limit, now, answered, throttled, used = GivenLimit(16), 0.0, 0, 0, []
    while answered < 5000:
        now += 0.1
        too_many = max(0, limit.limit - capacity)
        limit.observe(now, Tally(answered=capacity, latency_s=0.1 * capacity, throttled=too_many, starved=too_many))
        answered, throttled = answered + capacity, throttled + too_many
        used.append(limit.limit)
    assert throttled < 0.015 * answered
    assert sum(used[-100:]) == pytest.approx(100 * capacity, abs=10)


def test_refusals_by_chance_do_not_lower_a_given_number_and_a_starving_tile_does():
    limit = GivenLimit(8)
    for step in range(1000):
        limit.observe(step / 10, Tally(answered=8, latency_s=0.8, throttled=int(step % 10 == 0)))
    assert limit.limit == 8
    limit.observe(101, Tally(throttled=1, starved=1))
    assert limit.limit == 4


@pytest.mark.parametrize(("ready_s", "outage_s"), [(300, 3), (3, 300)])
def test_a_model_that_only_answers_500_gets_the_shorter_time(ready_s, outage_s):
    circuit, now = Circuit(ready_timeout_s=ready_s, outage_timeout_s=outage_s), 0.0
    while circuit.stop_reason is None and now < 400:
        circuit.record_failures(now, 9, False, "HTTP 500", model_started=True, of_trial=circuit.state == "trial")
        if circuit.start_probe(now):
            circuit.record_probe(now, None)
        now += 0.1
    assert circuit.stop_reason == "no request to the model succeeded for " + (
        f"{'outage' if outage_s == 3 else 'ready'}_timeout_s=3 s; the last failure was: HTTP 500"
    )
    assert now < 3.5
    assert (circuit.outages, circuit.open_s) == (1, pytest.approx(3, abs=0.7))


def test_a_failure_of_one_tile_is_no_outage_and_takes_no_time_of_one():
    circuit = Circuit(ready_timeout_s=60, outage_timeout_s=60)
    circuit.suspect_outage(1)
    circuit.record_probe(2, None)
    circuit.record_response(5, 0.1, 4.9)
    assert (circuit.state, circuit.outages, circuit.open_s) == ("closed", 0, 0.0)


@pytest.mark.parametrize("other_runs", [False, True])
def test_the_next_run_of_a_group_waits_its_own_time(other_runs, monkeypatch, caplog):
    """The next attempt of a job does not pay for the time that the one before has waited, unless others go on waiting."""
    monkeypatch.setattr("geotile.traffic.run_registry.time.monotonic", lambda: now[0])
    monkeypatch.setattr("geotile.traffic.coordinator.time.time", lambda: 1000.0)
    now, runs = [0.0], RunRegistry()
    group = TrafficSettings(concurrency=8, ready_timeout_s=300, outage_timeout_s=300, group="model")
    failed = {"tally": Tally(failed=9), "consecutive_failures": 9, "last_failure": "refused"}

    def fails(run, at):
        now[0] = at
        return runs.update(run, group, report(run, 9, 0, **failed)).stop_reason

    names = ["a", "other"] if other_runs else ["a"]
    assert [fails(name, at) for at in (0, 1) for name in names] == [None] * 2 * len(names)
    at = time.strftime("%H:%M:%S", time.localtime(1000 + 299))
    assert (
        f"(refused); requests are paused until one succeeds; the run gives up at {at} (ready_timeout_s=300 s)"
        in caplog.text
    )
    now[0] = 200.0
    runs.finish("a")
    assert (fails("b", 290), fails("b", 291)) == (None, None)
    assert bool(fails("b", 302)) == other_runs


@pytest.mark.parametrize("throttled", [True, False])
def test_a_model_that_works_for_one_process_and_refuses_others_is_no_outage(throttled):
    coordinator = Coordinator(TrafficSettings(concurrency=6, ready_timeout_s=5, outage_timeout_s=5))
    refused = {
        "tally": Tally(throttled=9) if throttled else Tally(failed=9), "consecutive_failures": 9,
        "last_failure": "503", "models_fault": throttled,
    }  # fmt: skip
    for now in range(20):
        coordinator.update(report("a", 5, 1, working_s=now), now)
        allowance = coordinator.update(report("b", 20, 0, suspects_outage=now == 3, **refused), now)
    assert (coordinator.circuit.state == "closed", allowance.stop_reason is None) == (throttled, throttled)
    coordinator.update(report("a", 5, 0), 20)  # it works no more
    stopped = [coordinator.update(report("b", 20, 0, **refused), now).stop_reason for now in (20, 21, 22, 30)]
    assert [each is None for each in stopped] == [throttled, throttled, throttled, False]


def test_a_request_that_takes_far_longer_than_others_did_is_no_sign_of_life():
    circuit = Circuit(ready_timeout_s=5, outage_timeout_s=5)
    circuit.record_response(0, 0.2, -0.2)
    states = []
    for now in range(1, 14):
        circuit.record_work(now, now)
        circuit.record_failures(now, 3 if now < 4 else 0, True, "503")  # it has taken all requests that may be out
        states.append(circuit.state)
        circuit.start_probe(now)
    assert states == ["closed"] * 5 + ["open"] * 8
    assert circuit.stop_reason.startswith("no request to the model succeeded for outage_timeout_s=5 s")


def test_a_request_that_takes_long_makes_no_outage_of_a_few_refusals():
    circuit = Circuit(ready_timeout_s=5, outage_timeout_s=5)
    circuit.record_response(0, 0.2, -0.2)
    circuit.record_failures(9.9, 9, True, "503")
    circuit.record_work(10, 8)
    assert circuit.state == "closed"
    circuit.record_work(10.6, 8.6)
    assert circuit.state == "open"


def test_a_process_that_is_frozen_keeps_its_share_for_a_while_only():
    coordinator = Coordinator(TrafficSettings(concurrency=4, ready_timeout_s=60, outage_timeout_s=60))
    assert coordinator.update(report("frozen", 50, 0), 0).cap == 4
    coordinator.update(report("frozen", 50, 4, working_s=1), 1)
    assert [coordinator.update(report("b", 50, 0), now).cap for now in (2, 20, 32)] == [0, 0, 4]
    assert coordinator.update(report("frozen", 50, 4), 33).cap <= 2  # it is back


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_one_process_of_many_tries_whether_the_model_is_back(order):
    coordinator = Coordinator(TrafficSettings(concurrency=6, ready_timeout_s=60, outage_timeout_s=60))
    failed = {"tally": Tally(failed=9), "consecutive_failures": 9, "last_failure": "refused"}
    for now in (0, 1):
        for name in order:
            coordinator.update(report(name, 20, 0, **failed), now)
    assert coordinator.circuit.state == "open"
    coordinator.update(report(order[0], 20, 0, probe_result=(None,)), 2)
    caps = [{name: coordinator.update(report(name, 20, 0), now).cap for name in order} for now in (2.1, 2.2, 2.3)]
    assert all(sorted(each.values()) == [0, 0, 1] for each in caps)
    trying = max(caps[-1], key=caps[-1].get)
    coordinator.remove_worker(f"tcp://{trying}")  # another takes its place
    left = [name for name in order if name != trying]
    assert sorted(coordinator.update(report(name, 20, 0), 3).cap for name in left) == [0, 1]
    coordinator.update(report(left[0], 20, 0, tally=Tally(answered=1, latency_s=0.1)), 4)
    assert coordinator.circuit.state == "closed"


def test_a_process_that_has_had_an_answer_makes_the_trial():
    coordinator = Coordinator(TrafficSettings(concurrency=6, ready_timeout_s=60, outage_timeout_s=60))
    failed = {"tally": Tally(failed=9), "consecutive_failures": 9, "last_failure": "HTTP 500"}
    for now in (0, 1):
        for name in "ab":
            coordinator.update(report(name, 20, 0, **failed), now)
    coordinator.update(report("a", 20, 0, probe_result=(None,)), 2)
    assert coordinator.update(report("a", 20, 0), 2.1).cap == 1
    assert coordinator.update(report("b", 20, 0, has_control=True), 2.2).cap == 0  # a may have sent its tile
    assert coordinator.update(report("a", 20, 0), 2.3).cap == 0
    assert coordinator.update(report("a", 20, 0), 2.4).cap == 0
    assert coordinator.update(report("b", 20, 0, has_control=True), 2.5).cap == 1


def test_requests_that_were_sent_before_the_trial_do_not_decide_it():
    """A probe is made while two requests that are refused are in flight: they come back with its result."""
    coordinator = Coordinator(TrafficSettings(concurrency=2, ready_timeout_s=60, outage_timeout_s=60))
    failed = {"tally": Tally(throttled=2), "consecutive_failures": 9, "last_failure": "HTTP 503"}
    coordinator.update(report("a", 9, 2, tally=Tally(answered=1, latency_s=0.1)), 0)
    for now in (1, 2, 2.5):
        coordinator.update(report("a", 9, 2, **failed), now)
    assert coordinator.update(report("a", 9, 2, probe_result=(None,), **failed), 3).state == "trial"
    assert coordinator.update(report("a", 9, 1, **failed), 4).state == "trial"
    assert coordinator.update(report("a", 9, 0, trial_failed=True, **failed), 5).outages == 1
    assert coordinator.circuit.state == "open"


def test_a_process_learns_when_others_were_answered():
    coordinator = Coordinator(TrafficSettings(concurrency=6, ready_timeout_s=60, outage_timeout_s=60))
    assert coordinator.update(report("a", 20, 0, tally=Tally(answered=1, latency_s=0.1)), 1).answered_s_ago == math.inf
    assert coordinator.update(report("b", 20, 0), 3).answered_s_ago == 2
    coordinator.update(report("a", 0, 0), 4)
    coordinator.update(report("a", 0, 0), 4)  # it has left
    assert coordinator.update(report("b", 20, 0), 5).answered_s_ago == 4


def test_calls_that_only_wait_keep_no_thread_from_others():
    release = threading.Event()

    def waits(away):
        with pool.away() if away else nullcontext():
            release.wait(10)

    with DaemonPool(2, "example") as pool:
        for _ in range(2):  # as many as there are threads
            pool.submit(waits, True)
        assert pool.submit(max, 1, 2).result(timeout=5) == 2
        held = [pool.submit(waits, False) for _ in range(2)]
        late = pool.submit(max, 3, 4)
        with pytest.raises(TimeoutError):
            late.result(timeout=0.2)
        release.set()
        assert (late.result(timeout=5), [each.result(timeout=5) for each in held]) == (4, [None, None])


@pytest.fixture(scope="module")
def cluster():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 4, 12])
def test_one_number_over_a_cluster_of_processes(cluster, write_tiff, concurrency):
    path = write_tiff(np.random.default_rng(0).integers(1, 255, (1, 512, 512), np.uint8))
    model = Counting(0.02 if concurrency > 1 else 0.01)
    with ModelServer(model) as server:
        found = geotile.detect(
            path, server.url, tile_size=32, overlap=0, region_size=128, concurrency=concurrency, tile_format="NPY"
        )
    report = found.attrs["report"]
    assert (report.status, report.requests, report.concurrency) == ("SUCCESS", 256, concurrency)
    assert model.most == concurrency
    assert set(report.timing) == {"decode", "cut", "encode", "send", "parse", "merge", "rows"}


@pytest.mark.slow
def test_an_outage_stops_all_workers_of_a_cluster(cluster, write_tiff):
    from misbehaving import misbehaving, outage

    path, again = write_tiff(np.random.default_rng(0).integers(1, 255, (1, 512, 512), np.uint8)), []
    with misbehaving(outage(again, after=60, seconds=3)) as (url, _):
        found = geotile.detect(path, url, tile_size=32, overlap=0, region_size=128, concurrency=6, tile_format="NPY")
        again[0].shutdown()
        again[0].server_close()
    report = found.attrs["report"]
    assert (report.status, len(found), report.outages) == ("SUCCESS", 256, 1)
    assert report.retries < 256  # fewer than tiles: requests wait for the model, they do not hammer it


@pytest.mark.slow
def test_a_process_scheduler_divides_the_number_or_says_that_it_cannot(write_tiff, noise):
    import dask

    model = Counting()
    job = {"tile_size": 64, "overlap": 16, "region_size": 128}
    with ModelServer(model) as server, dask.config.set(scheduler="processes", num_workers=2):
        with pytest.raises(
            geotile.ArgumentError, match=r"concurrency must be at least 2, the number of processes.*got 1"
        ):
            geotile.detect(write_tiff(noise), server.url, concurrency=1, **job)
        geotile.detect(write_tiff(noise), server.url, concurrency=5, **job)
    assert 2 <= model.most <= 4


@pytest.mark.slow
def test_auto_over_real_http_leaves_the_first_step_behind(write_tiff):
    path = write_tiff(np.random.default_rng(0).integers(1, 255, (1, 640, 640), np.uint8))
    model = Counting(0.03)
    with ModelServer(model) as server:
        report = geotile.detect(path, server.url, tile_size=32, overlap=0, concurrency="auto").attrs["report"]
    assert report.status == "SUCCESS"
    assert model.most > AutoLimit().limit


def test_the_report_tells_how_many_requests_were_in_flight(write_tiff, noise):
    with ModelServer(Counting(), latency_s=0.1) as server:
        report = geotile.detect(write_tiff(noise), server.url, tile_size=64, overlap=0, concurrency=4).attrs["report"]
    average, most = re.fullmatch(
        r"(.*) on average; the limit was (\d+) at the end", report.rows()["requests in flight"]
    ).groups()
    assert (2 < float(average) <= 4, most) == (True, "4")


@pytest.mark.parametrize(
    ("concurrency", "message"),
    [
        (0, "at least 1; got 0"),
        ("many", 'concurrency must be a whole number or "auto"; got .many.'),
        (1.5, "whole number or"),
    ],
)
def test_a_wrong_concurrency_is_named(concurrency, message):
    with pytest.raises(geotile.ArgumentError, match=message):
        geotile.detect("x.tif", "http://127.0.0.1:9/invocations", concurrency=concurrency)


def broken(handler, number, times):
    handler.reply(500, b"the model is broken")


def failing_seconds(path, url):
    """Run three tiles of a model that only fails; return the seconds until the run ended, and its report."""
    began = time.monotonic()
    found = geotile.detect(path, url, tile_size=32, overlap=0, outage_timeout_s=2, tile_format="NPY")
    return time.monotonic() - began, found.attrs["report"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:3 of 3 tiles failed")
@pytest.mark.parametrize("group", [None, "model"])
def test_a_broken_model_is_given_up_in_time_on_a_cluster(cluster, group, write_tiff, monkeypatch):
    with ModelServer(Counting()) as model:  # the workers import geotile before the time begins
        geotile.detect(write_tiff(np.ones((1, 96, 96), np.uint8)), model.url, tile_size=32, overlap=0, region_size=32)
    check_that_a_broken_model_is_given_up(group, write_tiff, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:3 of 3 tiles failed")
@pytest.mark.parametrize("group", [None, "model"])
def test_a_broken_model_is_given_up_in_time_on_threads(group, write_tiff, monkeypatch):
    import dask

    with dask.config.set(scheduler="threads"):  # the cluster of this module may be there
        check_that_a_broken_model_is_given_up(group, write_tiff, monkeypatch)


def check_that_a_broken_model_is_given_up(group, write_tiff, monkeypatch):
    """A model that answers its health check and HTTP 500 to each tile, asked by several runs, in a group as in a job."""
    from misbehaving import misbehaving

    settings_of = traffic_settings
    monkeypatch.setattr(
        "geotile.running.start.traffic_settings", lambda model, limit, _: settings_of(model, limit, group)
    )
    path = write_tiff(np.random.default_rng(0).integers(1, 255, (1, 32, 96), np.uint8))
    with misbehaving(broken) as (url, _), ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(failing_seconds, [path] * 4, [url] * 4))
    assert max(seconds for seconds, _ in runs) < 12, runs  # else it takes minutes
    assert {report.status for _, report in runs} == {"FAILED"}
    assert any("outage_timeout_s=2 s" in failure.reason for _, report in runs for failure in report.failures)


# --- groups: runs of one endpoint share one number


def group_report(process, wanted, in_flight=0, refused=0, worker=None):
    tally = Tally(reports=1, busy=1, throttled=refused)
    return GateReport(
        process=process, worker=worker, wanted=wanted, in_flight=in_flight, tally=tally, consecutive_failures=0,
        last_failure="", models_fault=False, probe_result=None, suspects_outage=False,
    )  # fmt: skip


def test_runs_of_a_group_share_one_number():
    runs, group = RunRegistry(), TrafficSettings(concurrency=8, ready_timeout_s=1, outage_timeout_s=1, group="model")
    other = TrafficSettings(concurrency=8, ready_timeout_s=1, outage_timeout_s=1)
    assert runs.update("a", group, group_report("a1", 100)).cap == 8
    assert runs.update("b", group, group_report("b1", 100)).cap == 0  # all are out yet
    assert runs.update("alone", other, group_report("c1", 100)).cap == 8
    assert runs.update("a", group, group_report("a1", 100, 8)).cap == 4
    assert runs.update("a", group, group_report("a1", 100, 4)).cap == 4
    assert runs.update("b", group, group_report("b1", 100)).cap == 4
    assert runs.finish("a")["throttled"] == 0
    assert runs.update("a", group, group_report("a1", 100, 4)).stop_reason == "the run is over"
    assert runs.update("b", group, group_report("b1", 100, 4)).cap == 8
    assert runs.update("b", group, group_report("b1", 100, 8, refused=3)).cap == 4
    assert runs.finish("b")["throttled"] == 3
    assert runs.update("d", group, group_report("d1", 5)).cap == 4  # the group and what it was refused are remembered


def test_all_runs_of_a_worker_that_died_give_their_shares_back():
    runs, group = RunRegistry(), TrafficSettings(concurrency=8, ready_timeout_s=1, outage_timeout_s=1, group="model")
    runs.update("a", group, group_report("a1", 4, worker="w"))
    runs.update("b", group, group_report("b1", 4, worker="w"))
    assert runs.update("c", group, group_report("c1", 9)).cap == 0
    runs.remove_worker("w")
    assert runs.update("c", group, group_report("c1", 9)).cap == 8


def test_a_group_whose_model_was_given_up_begins_anew():
    runs, group = RunRegistry(), TrafficSettings(concurrency=8, ready_timeout_s=1, outage_timeout_s=1, group="model")
    runs.update("a", group, group_report("a1", 4))
    runs._runs["a"].coordinator.circuit.stop_reason = "it is gone"
    assert runs.update("a", group, group_report("a1", 4)).stop_reason == "it is gone"
    assert runs.update("b", group, group_report("b1", 4)).cap == 4
    assert runs.update("a", group, group_report("a1", 4)).stop_reason == "it is gone"


@pytest.mark.slow
def test_a_run_that_waits_keeps_no_thread_from_the_run_that_has_the_room():
    runs, group = RunRegistry(), TrafficSettings(concurrency=1, ready_timeout_s=1, outage_timeout_s=1, group="model")
    gates = [
        Gate(lambda report, run=run: runs.update(run, group, report), lambda: None, lambda tiles: None, run)
        for run in ("first", "second")
    ]

    def request(gate, done):
        with gate.prepare_slot():
            gate.acquire()
            gate.release()
        done()

    with gates[0].expecting(6) as first_done, gates[1].expecting(6) as second_done:
        deadline = time.monotonic() + 20
        while not any(gate._allowance.cap for gate in gates):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        holds = next(i for i, gate in enumerate(gates) if gate._allowance.cap)
        order = [1 - holds, holds]  # who must wait comes first, with more requests than threads
        done = first_done, second_done
        futures = [gates[i].thread_pool(2).submit(request, gates[i], done[i]) for i in order for _ in range(6)]
        for future in futures:
            future.result(timeout=20)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionResetError("reset"), "lost the connection to the run's coordinator: ConnectionResetError: reset"),
        (ZeroDivisionError("division"), "got an error from the run's coordinator: ZeroDivisionError: division"),
    ],
)
def test_an_error_of_the_coordinator_is_not_called_a_lost_connection(error, words):
    def link(report):
        raise error

    gate = Gate(link, lambda: None, lambda tiles: None, f"a run with {error}")
    with gate.expecting(1), pytest.raises(geotile.EndpointUnreachable, match=words):
        gate.acquire()
