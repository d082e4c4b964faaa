"""The table of faults: one real server, each row a way to misbehave.

For each row: what the report says, that every other tile's detections are there, and what it cost (printed with -s).
"""

import datetime
import itertools
import re
import ssl
import threading
import time
from http.server import ThreadingHTTPServer

import pytest
import xarray as xr
from misbehaving import (
    POISON,
    Handler,
    acts,
    answers,
    away,
    drip_body,
    drip_head,
    endless_body,
    good,
    half_closed,
    misbehaving,
    never,
    numbered,
    one_in_ten,
    outage,
    reset_in_the_body,
)
from web_servers import running

import geotile
from geotile import EndpointError, EndpointUnreachable

pytestmark = pytest.mark.slow

ALL = {str(number) for number in range(1, 17)}
JOB = {"tile_size": 32, "overlap": 0, "tile_format": "NPY", "backoff_s": 0.02, "concurrency": 4, "region_size": 64}
JSON = b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"imageBBox": [0, 0, %s, 9]}}]}'


def run(url, **options):
    image = xr.DataArray(numbered(), dims=("band", "y", "x"))
    began = time.perf_counter()
    found = geotile.detect(image, url, **JOB | options)
    return set(found["label"]), found.attrs["report"], time.perf_counter() - began


def show(name, report, seconds):
    reason = report.failures[0].reason if report.failures else "-"
    print(f"\n{name:34} {report.status:8} {report.requests:3} requests {seconds:5.1f} s  {reason[:110]}", end="")


@pytest.mark.filterwarnings("ignore:1 of 16 tiles failed")
@pytest.mark.parametrize(
    ("name", "fault", "requests", "reason"),
    [
        # OSML's failure model
        ("500 for one tile", answers(500, b"boom"), 4, "HTTP 500: boom"),
        ("200, no JSON", answers(200, b"no detections here"), 1, "not JSON.*no detections here"),
        ("200, no features", answers(200, b'{"type": "FeatureCollection"}'), 1, "must have a list of features"),
        ("408 for one tile", answers(408), 4, "HTTP 408"),
        ("408 once", answers(408, first=1), 2, None),
        # others seen in the field
        ("413", answers(413, b"too large"), 1, "HTTP 413: too large"),
        ("400", answers(400), 1, "HTTP 400"),
        ("422", answers(422), 1, "HTTP 422"),
        ("425 once", answers(425, first=1), 2, None),
        ("429 with Retry-After, twice", answers(429, first=2, Retry_After="0"), 3, None),
        ("503 once", answers(503, first=1), 2, None),
        ("503 for one tile", answers(503, b"full"), 4, "HTTP 503: full"),
        ("reset in the body, once", acts(reset_in_the_body, first=1), 2, None),
        ("reset in the body", acts(reset_in_the_body), 4, "reset|broke off"),
        ("gigabytes of body", acts(endless_body), 1, "max_response_bytes"),
        ("NaN", answers(200, JSON % b"NaN"), 1, "NaN is not a valid JSON number"),
        ("Infinity", answers(200, JSON % b"Infinity"), 1, "Infinity is not a valid JSON number"),
        ("1e999", answers(200, JSON % b"1e999"), 1, "expected a finite number"),
        ("x1 < x0", answers(200, JSON % b"-4"), 1, "must have x0 <= x1"),
        ("far outside the tile", answers(200, good(POISON, (9000, 0, 9010, 9))), 1, "outside the tile"),
        ("a proxy's HTML with 200", answers(200, b"<html>sign in</html>"), 1, "not JSON.*<html>sign in"),
        # connections
        ("never answers", acts(never), 4, r"no complete response within 0.6 s \(timeout_s\)"),
        ("never answers once", acts(never, first=1), 2, None),
        ("drips its body", acts(drip_body), 2, "no complete response within 0.6 s"),
        ("drips its head", acts(drip_head), 2, "no complete response within 0.6 s"),
        ("half-closes once", acts(half_closed, first=1), 2, None),
        ("half-closes", acts(half_closed), 4, "closed"),
    ],
)
def test_a_fault_fails_its_tile_alone_or_none(name, fault, requests, reason):
    retries = 1 if name.startswith("drips") else 3  # each takes long
    with misbehaving(fault) as (url, server):
        labels, report, seconds = run(url, retries=retries, timeout_s=(0.5, 0.6), max_response_bytes=2**22)
    show(name, report, seconds)
    if reason is None:
        assert (labels, report.status, report.failures) == (ALL, "SUCCESS", [])
    else:
        assert labels == ALL - {str(POISON)}
        assert (report.status, [failure.tile for failure in report.failures]) == ("PARTIAL", [POISON - 1])
        assert re.search(reason, report.failures[0].reason)
    # one that is the last may be tried once or twice more, by itself
    assert requests <= server.seen[POISON] <= (requests + 3 if reason and requests > 1 else requests)
    assert (
        0 <= report.requests - sum(server.seen.values()) <= 1
    )  # a slow machine can time out before the server sees one
    again = [server.seen[number] - 1 for number in range(1, 17) if number != POISON]
    assert sum(again) == max(again) <= 3  # the control, while nothing else is answered


@pytest.mark.filterwarnings("ignore:12 of 48 tiles failed")
@pytest.mark.parametrize(("status", "concurrency"), [(500, 2), (500, 32), (503, 2)])
def test_tiles_that_always_fail_hold_up_no_others(status, concurrency, caplog):
    """Retries fill neither the threads nor the outage's trial, and once they have not helped there are fewer."""
    image = xr.DataArray(numbered(6, 8), dims=("band", "y", "x"))
    job = JOB | {"region_size": 256, "backoff_s": 0.1, "concurrency": concurrency}
    with misbehaving(lambda handler, number, _: number % 4 != 0 or handler.reply(status, b"bang")) as (url, server):
        began = time.perf_counter()
        found = geotile.detect(image, url, retries=4, **job)
        seconds = time.perf_counter() - began
    report = found.attrs["report"]
    show(f"12 of 48 always get {status}, {concurrency} at once", report, seconds)
    assert [failure.tile for failure in report.failures] == list(range(3, 48, 4))
    assert all(f"HTTP {status}: bang" in failure.reason for failure in report.failures)
    assert (len(found), report.outages) == (36, 0)
    assert report.requests == sum(server.seen.values())
    assert seconds < (8 if status == 500 else 30)  # what was refused with 503 keeps its place while it waits
    assert sum("all recent requests" in each.message for each in caplog.records) <= 1


@pytest.mark.filterwarnings("ignore:1 of 16 tiles failed")
def test_a_tile_that_ends_the_server_fails_alone():
    """A server that crashes for a tile and is started again: an outage each time, which does not go on for ever."""
    servers, crashes = [], []

    def fault(handler, number, times):
        if number == POISON:
            crashes.append(time.monotonic())
            threading.Thread(target=away, args=(handler.server, 1.0, servers), daemon=True).start()
            time.sleep(0.1)
        return True

    with misbehaving(fault) as (url, server):
        servers.append(server)
        labels, report, seconds = run(url, retries=2)
        servers[-1].shutdown()
        servers[-1].server_close()
    show("a tile that ends the server", report, seconds)
    assert (labels, report.status) == (ALL - {str(POISON)}, "PARTIAL")
    assert 3 <= len(crashes) <= 7
    assert report.outages >= 2


def test_one_in_ten_fails_at_random():
    with misbehaving(one_in_ten()) as (url, server):
        labels, report, seconds = run(url)
    show("10 % random 500s", report, seconds)
    assert (labels, report.status) == (ALL, "SUCCESS")
    assert report.retries == sum(server.seen.values()) - 16 > 0


def test_an_outage_of_five_seconds_costs_five_seconds():
    again, retries, states = [], 8, []
    image = xr.DataArray(numbered(15, 16), dims=("band", "y", "x"))
    with misbehaving(outage(again, after=40, seconds=5)) as (url, _):
        began = time.perf_counter()
        found = geotile.detect(
            image, url, **JOB | {"region_size": 256, "backoff_s": 0.3}, retries=retries, progress=states.append
        )
        seconds = time.perf_counter() - began
        again[0].shutdown()
        again[0].server_close()
    report = found.attrs["report"]
    show(f"five-second outage, {retries} retries", report, seconds)
    assert (report.status, len(found), report.outages) == ("SUCCESS", 240, 1)
    assert report.outage_s > 3
    reasons = [each.waiting_for for each in states]
    assert any(re.match(rf"waiting for the model: {url} did not respond: connection refused", each) for each in reasons)
    assert (states[-1].done, states[-1].waiting_for) == (240, "")
    assert report.retries < 120  # nobody hammered it
    assert seconds < 10


def test_a_server_that_takes_fewer_than_it_is_sent_loses_no_tile():
    """A number that it cannot serve is lowered: with 16 in flight before a server of one, a fifth of the tiles was lost."""
    room = threading.Semaphore(1)

    def fault(handler, number, times):
        if not room.acquire(blocking=False):
            return handler.reply(503, b"busy")
        try:
            time.sleep(0.1)
        finally:
            room.release()
        return True

    with misbehaving(fault) as (url, _):
        image = xr.DataArray(numbered(8, 8), dims=("band", "y", "x"))
        found = geotile.detect(image, url, **JOB | {"retries": 4, "concurrency": 16, "backoff_s": 0.5})
    report = found.attrs["report"]
    assert (report.status, len(found)) == ("SUCCESS", 64)
    assert report.concurrency < 16
    assert report.requests < 2 * 64


@pytest.mark.parametrize(("first_s", "next_s", "concurrency"), [(1.5, 0.02, 8), (1.5, 0.02, "auto"), (0.9, 0.9, 8)])
def test_a_server_of_one_that_takes_long_is_full_and_not_gone(first_s, next_s, concurrency, caplog):
    """Its first answer takes longer than a model is waited for, and meanwhile it refuses all other requests."""
    room, pauses = threading.Semaphore(1), itertools.chain([first_s], itertools.repeat(next_s))

    def fault(handler, number, times):
        if not room.acquire(blocking=False):
            return handler.reply(503, b"busy")
        try:
            time.sleep(next(pauses))
        finally:
            room.release()
        return True

    side = 2 if next_s > 0.5 else 8
    with misbehaving(fault) as (url, _):
        image = xr.DataArray(numbered(side, 2), dims=("band", "y", "x"))
        options = {"ready_timeout_s": 0.7, "outage_timeout_s": 0.7, "concurrency": concurrency, "backoff_s": 0.5}
        found = geotile.detect(image, url, **JOB | options)
    report = found.attrs["report"]
    show(f"a server of one, {first_s} s and {next_s} s, {concurrency}", report, report.seconds)
    assert (report.status, len(found), report.outages) == ("SUCCESS", 2 * side, 0)
    assert "all recent requests" not in caplog.text


@pytest.mark.parametrize("status", [500, 503])
def test_a_model_that_fails_for_all_while_its_health_check_works_is_waited_for(status, caplog):
    image, state = xr.DataArray(numbered(15, 16), dims=("band", "y", "x")), {"count": 0, "until": 0.0}

    def fault(handler, number, times):
        state["count"] += 1
        state["until"] = time.monotonic() + 3 if state["count"] == 60 else state["until"]
        return time.monotonic() > state["until"] or handler.reply(status, b"no memory")

    with misbehaving(fault) as (url, server):
        found = geotile.detect(image, url, **JOB | {"region_size": 256}, retries=3)
    report = found.attrs["report"]
    show(f"{status} for all tiles for 3 s", report, report.seconds)
    assert (report.status, len(found), report.outages) == ("SUCCESS", 240, 1)
    assert report.outage_s > 1
    assert report.requests == sum(server.seen.values())
    assert [each.message for each in caplog.records].count("the model responds again") == 1


@pytest.mark.parametrize("retries", [1, 2])
def test_a_server_that_answers_what_it_has_taken_before_it_goes_loses_no_tile(retries):
    """A rolling restart: answers to requests that were sent before do not show that the model works."""
    image, began = xr.DataArray(numbered(10, 10), dims=("band", "y", "x")), time.monotonic()

    def fault(handler, number, times):
        if 0.8 < time.monotonic() - began < 2.2:
            return handler.reply(502, b"no server")
        time.sleep(0.5)
        return True

    with misbehaving(fault) as (url, server):
        found = geotile.detect(image, url, **JOB | {"region_size": 512, "concurrency": 8}, retries=retries)
    report = found.attrs["report"]
    show(f"a restart that drains, {retries} retries", report, report.seconds)
    assert (report.status, len(found)) == ("SUCCESS", 100)
    assert report.requests == sum(server.seen.values())


@pytest.mark.parametrize(("status", "retries"), [(500, 2), (503, 2), (500, 1)])
def test_a_model_whose_health_check_works_before_it_does_loses_no_tile(status, retries):
    began = time.monotonic()
    with misbehaving(lambda handler, *_: time.monotonic() - began > 2.5 or handler.reply(status, b"loading")) as (
        url,
        _,
    ):
        labels, report, seconds = run(url, retries=retries)
    show(f"{status} for the first 2.5 s, {retries} retries", report, seconds)
    assert (labels, report.status) == (ALL, "SUCCESS")


@pytest.mark.filterwarnings("ignore:8 of 64 tiles failed")
def test_tiles_that_are_always_refused_hold_up_no_others():
    """They keep their places at first, as the server may be full; not for ever, since others are answered."""
    image, answered = xr.DataArray(numbered(8, 8), dims=("band", "y", "x")), []

    def fault(handler, number, times):
        if number % 8 == 0:
            return handler.reply(503, b"full")
        answered.append(time.monotonic())
        return True

    with misbehaving(fault) as (url, _):
        began = time.monotonic()
        geotile.detect(image, url, **JOB | {"region_size": 512, "concurrency": 2, "backoff_s": 0.2}, retries=6)
        seconds = time.monotonic() - began
    in_time = sorted(answered)[:56]
    assert len(in_time) == 56
    assert in_time[-1] - began < seconds / 2, (in_time[-1] - began, seconds)


def test_past_outage_timeout_the_run_ends_with_what_it_has():
    with misbehaving(outage([], after=8, seconds=600)) as (url, _), pytest.warns(UserWarning, match="tiles failed"):
        labels, report, seconds = run(url, outage_timeout_s=2, concurrency=2)
    show("outage without end", report, seconds)
    assert report.status == "PARTIAL"
    assert 6 <= len(labels) <= 9  # one more may be in flight
    assert len(labels) + len(report.failures) == 16
    assert "outage_timeout_s=2 s" in report.failures[-1].reason
    assert report.requests < 100


def test_a_model_that_never_answers_a_tile_ends_at_ready_timeout():
    def loading(handler, number, times):
        handler.reply(503, b"loading")

    with misbehaving(loading) as (url, _), pytest.warns(UserWarning, match="16 of 16 tiles failed"):
        labels, report, seconds = run(url, ready_timeout_s=2, retries=2)
    show("503 to everything", report, seconds)
    assert (report.status, labels) == ("FAILED", set())
    assert all("ready_timeout_s=2 s" in failure.reason and "loading" in failure.reason for failure in report.failures)


def test_a_model_that_starts_late_is_waited_for(caplog):
    began = time.monotonic()

    class Late(Handler):
        def do_GET(self):
            self.reply(200 if time.monotonic() - began > 1.5 else 503, b"")

    with misbehaving(answers(200, first=0)) as (url, server):
        server.RequestHandlerClass = Late
        labels, report, seconds = run(url)
        assert (labels, report.status, report.retries) == (ALL, "SUCCESS", 0)
        assert "waiting up to 300 s (ready_timeout_s) for the model" in caplog.text
        assert seconds > 1
        began = time.monotonic() + 3600
        with pytest.raises(EndpointError, match="HTTP 503"):
            run(url, ready_timeout_s=0.5)


@pytest.mark.parametrize(
    ("name", "issued", "trusted", "said"),
    [
        ("TLS, wrong name", {"hosts": ["elsewhere.example"]}, True, "certificate is for another host"),
        ("TLS, expired", {"hosts": ["127.0.0.1"], "days": -1}, True, "certificate has expired"),
        (
            "TLS, private authority",
            {"hosts": ["127.0.0.1"]},
            False,
            "not trusted; pass the file of its authority as verify",
        ),
        ("TLS, private authority, named", {"hosts": ["127.0.0.1"]}, True, None),
    ],
)
def test_tls(name, issued, trusted, said, tmp_path):
    import trustme

    authority = trustme.CA()
    days = issued.get("days")
    until = {} if days is None else {"not_after": datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*issued["hosts"], **until).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with misbehaving(answers(200, first=0)) as (url, server):
        server.socket = context.wrap_socket(server.socket, server_side=True)
        options = {"verify": str(tmp_path / "ca.pem")} if trusted else {}
        began = time.perf_counter()
        if said is None:
            assert run(url.replace("http:", "https:"), **options)[0] == ALL
            return
        with pytest.raises(EndpointUnreachable, match=said):
            run(url.replace("http:", "https:"), **options)
        print(f"\n{name:34} refused before the run, {time.perf_counter() - began:.1f} s", end="")
        assert not server.seen


def test_dns_that_fails():
    began = time.perf_counter()
    with pytest.raises(EndpointUnreachable, match="host name"):
        run("http://no-such-host.invalid/invocations", ready_timeout_s=1)
    print(f"\n{'DNS fails':34} refused before the run, {time.perf_counter() - began:.1f} s", end="")


def test_a_client_certificate_is_shown(tmp_path):
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("client@geotile.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    with misbehaving(answers(200, first=0)) as (url, server):
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url, trust = url.replace("http:", "https:"), {"verify": str(tmp_path / "ca.pem")}
        assert run(url, cert=str(tmp_path / "me.pem"), **trust)[0] == ALL
        with pytest.raises(EndpointUnreachable, match=r"requires? a client certificate"):
            run(url, ready_timeout_s=0, **trust)


def test_a_proxy_of_the_environment_is_asked(monkeypatch):
    asked = []

    class Proxy(Handler):
        def do_GET(self):
            asked.append(self.path)
            self.reply(200, b"")

        def do_POST(self):
            asked.append(self.path)
            self.path = "/invocations"
            super().do_POST()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.fault, server.seen, server.lock = (lambda *args: True), {}, threading.Lock()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with running(server):
        assert run("http://models.example/invocations")[0] == ALL
    assert set(asked) == {"http://models.example/ping", "http://models.example/invocations"}
