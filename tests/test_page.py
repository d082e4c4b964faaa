"""The page of a service: what it shows, who may do what, what it costs, and how it is used with a keyboard."""

import contextlib
import json
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from urllib.parse import quote

import lxml.html
import numpy as np
import pytest
import rasterio
import requests
from helpers import cli, crowd
from prometheus_client import CollectorRegistry
from service_process import ServiceProcess, request, until

import geotile
from geotile.service.health import Health
from geotile.service.job_list import JobList
from geotile.service.page.access import Access
from geotile.service.page.app import AT_ONCE, Page
from geotile.service.page.found import MAX_SHAPES, Found, found_in
from geotile.service.page.mapping import image_map
from geotile.service.page.picture import Pictures
from geotile.service.records import ImageRecord, JobRecord, Records
from geotile.service.web import serve_http
from geotile.storage.folder import Folder
from geotile.testing import ModelServer, bright_objects, write_example

pytestmark = pytest.mark.slow
TOKEN = "a token of the tests"
HOSTILE = '<script>alert("1")</script>'
NAME = '"><img src=x onerror=alert(2)> https://me:hidden@host/?token=hidden \u202e'
MAX_BYTES = 300_000


class Model:
    """A model that fails for dark tiles, and that keeps the tiles of slow jobs until they are let go."""

    def __init__(self):
        self.go, self.end, self.requests, self.lock = threading.Event(), threading.Event(), 0, threading.Lock()

    def __call__(self, tile):
        with self.lock:
            self.requests += 1
        if tile[0, 0, 0] < 40:
            raise ValueError("poison")
        return crowd(tile)

    def slow(self, tile):
        self.go.wait(60)
        return self(tile)

    def slower(self, tile):
        self.end.wait(60)
        return self(tile)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service with a job that is done without a tile, two that failed, and two that run."""
    root, model = tmp_path_factory.mktemp("page"), Model()
    folder, image = root / "jobs", root / "image.tif"
    pixels = np.random.default_rng(0).integers(41, 256, (3, 300, 420), np.uint8)
    pixels[0, 0, 0] = 0
    write_tiff(image, pixels)

    def submit(job_id, url, path=image, **more):
        geotile.submit(request(job_id, str(path), url, [{"type": "File", "path": str(root)}], **more), folder)

    words = ("--max-attempts", 1, "-O", "retries=0", "-O", "ready_timeout_s=1", "-O", "outage_timeout_s=1")
    environment = os.environ | {"GEOTILE_PAGE_TOKEN": TOKEN, "GEOTILE_PAGE_HOST": "jobs.example"}
    with ModelServer(model) as quick, ModelServer(model.slow) as slow, ModelServer(model.slower) as slower:
        submit("found", quick.url, jobName="Ships")
        submit("missing", quick.url, root / "missing.tif")
        submit(HOSTILE, "http://127.0.0.1:9/x", jobName=NAME)
        submit("slow", slow.url)
        submit("slower", slower.url)
        with ServiceProcess(folder, *words, "--max-jobs", 3, env=environment) as service:
            service.model, service.root = model, root
            until(
                lambda: (
                    statuses(folder)
                    == {
                        "found": "PARTIAL",
                        "missing": "FAILED",
                        HOSTILE: "FAILED",
                        "slow": "IN_PROGRESS",
                        "slower": "IN_PROGRESS",
                    }
                )
            )
            yield service
            model.go.set()
            model.end.set()


def write_tiff(path, pixels, **more):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(pixels),
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype=pixels.dtype,
        **more,
    ) as file:
        file.write(pixels)


def statuses(folder):
    return {each.job_id: each.status for each in geotile.jobs(folder)}


class Browser(requests.Session):
    """Requests as a browser sends them: forms with their origin."""

    def __init__(self, url):
        super().__init__()
        self.url = url

    def page(self, path="", status=200, **more):
        answer = self.get(f"{self.url}/{path}", timeout=20, **more)
        assert answer.status_code == status, answer.text
        assert len(answer.content) < MAX_BYTES
        return lxml.html.fromstring(answer.text)

    def form(self, path, origin=None, **form):
        headers = {"Origin": origin or self.url} if origin != "" else {}
        return self.post(f"{self.url}/{path}", data=form, headers=headers, allow_redirects=False, timeout=20)

    def csrf(self):
        return self.page().xpath("//input[@name='csrf']/@value")[0]


@pytest.fixture
def guest(served):
    return Browser(served.url)


@pytest.fixture
def operator(served):
    found = Browser(served.url)
    assert found.form("login", token=TOKEN).status_code == 303
    return found


def job(job_id):
    return f"job?id={quote(job_id, safe='')}"


# --- what it shows


def test_the_list_has_each_job_in_its_group(guest):
    page = guest.page()
    groups = {each.get("data-live").removeprefix("group-"): each for each in page.xpath("//section")}
    assert list(groups) == ["running", "waiting", "failed", "done"]
    rows = {key: [row.text_content() for row in each.xpath(".//tbody/tr")] for key, each in groups.items()}
    assert [len(each) for each in rows.values()] == [2, 0, 2, 1]
    assert all("0 of 15 (0 %)" in each for each in rows["running"])
    assert "done, some tiles failed" in rows["done"][0]
    assert re.search(r"1 failed tile: http\S+ returned HTTP 500: ValueError: poison", rows["done"][0])
    assert any("no such image" in each for each in rows["failed"])
    progress = groups["running"].xpath(".//progress")[0]
    assert (progress.get("value"), progress.get("aria-label")[:18]) == ("0", "Tiles done of slow")
    assert len(guest.page("?find=SHIP").xpath("//tbody/tr")) == 1
    assert not guest.page("?find=token%3Dhid").xpath("//tbody/tr")  # or a secret could be guessed part by part
    assert guest.page("?show=failed&page=2").xpath("//nav[@class='pages']/span")[0].text == "Page 1 of 1"


@pytest.mark.parametrize(
    "path", ["", "?find=" + quote(HOSTILE), job(HOSTILE), f"{job(HOSTILE)}&said=<script>", "job?id=" + quote("<b>")]
)
def test_nothing_of_a_request_becomes_markup_and_secrets_are_masked(guest, path):
    answer = guest.get(f"{guest.url}/{path}", timeout=20)
    page = lxml.html.fromstring(answer.text)
    assert [each.get("src") for each in page.xpath("//script")] == ["page.js"]
    assert not page.xpath("//img | //b[not(@data-live)] | //*[@onerror] | //*[@style] | //style")
    assert "hidden@" not in answer.text
    assert "token=hidden" not in answer.text
    assert "\u202e" not in answer.text
    if answer.status_code == 200:
        assert HOSTILE in page.text_content() or "find" in path
        guest.page(page.xpath(f"//a[contains(@href, '{quote(HOSTILE, safe='')}')]/@href")[0])


def test_a_map_has_the_picture_the_detections_and_the_failed_tiles(guest, served):
    page = guest.page(job("found"))
    features = json.loads((served.root / "found.geojson").read_text())["features"]
    layers = page.xpath("//*[local-name()='path'][contains(@class, 'layer')]/@d")
    assert sum(each.count("M") for each in layers) == len(features) > 20
    x0, y0, *_ = features[0]["properties"]["imageBBox"]
    scale = 1000 / 420
    assert f"M{x0 * scale:.1f}".removesuffix(".0") + f" {y0 * scale:.1f}".removesuffix(".0") in "".join(layers)
    assert page.xpath("//*[local-name()='path'][@class='failed']/@d") == ["M0 0h304.8v304.8h-304.8z"]
    assert f"All {len(features)} detections are drawn" in page.text_content()
    assert "failed tiles (1)" in page.text_content()
    assert "0–128" in page.xpath("//details")[0].text_content()
    (notice,) = page.xpath("//div[@class='notice']")
    assert re.match(r"Why tiles failed\s+1 tile: http\S+ returned HTTP 500: ValueError: poison", notice.text_content())
    (picture,) = page.xpath("//*[local-name()='image']/@href")
    answer = guest.get(f"{guest.url}/{picture}", timeout=20)
    assert (answer.headers["Content-Type"], answer.content[:2]) == ("image/jpeg", b"\xff\xd8")
    static = sum(len(guest.get(f"{guest.url}/{name}", timeout=20).content) for name in ("page.css", "page.js"))
    assert len(lxml.html.tostring(page)) + len(answer.content) + static < MAX_BYTES


def test_jobs_without_a_map_say_why(guest):
    assert "The map is drawn once a run of the image has begun" in guest.page(job("missing")).text_content()
    assert "once a region is finished; none is yet" in guest.page(job("slow")).text_content()
    assert "no job with this id" in guest.page(job("none"), status=404).text_content()
    assert guest.get(f"{guest.url}/picture?id=missing&image=0", timeout=20).status_code == 404


# --- who may do what


def test_every_answer_keeps_browsers_from_more_than_it_needs(guest):
    for path in ("", job("found"), "login", "page.js", "none"):
        headers = guest.get(f"{guest.url}/{path}", timeout=20).headers
        policy = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert (headers["X-Frame-Options"], headers["Cache-Control"]) == ("DENY", "no-store")
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert guest.head(guest.url, timeout=20).text == ""
    assert guest.put(guest.url, timeout=20).headers["Allow"] == "GET, HEAD"
    assert guest.get(f"{guest.url}/cancel", timeout=20).status_code == 405


def test_without_a_session_nothing_can_be_done(guest, served):
    assert not guest.page().xpath("//form[@method='post']")
    assert guest.form("login", token="wrong" + TOKEN).status_code == 403
    for cookie in ("x", "9999999999.a.b", ".", "9999999999..", "é.é.é"):
        answer = guest.post(
            f"{guest.url}/cancel?id=slow",
            data={"csrf": "x"},
            timeout=20,
            headers={"Origin": guest.url, "Cookie": f"geotile_page={cookie}".encode()},
        )
        assert answer.status_code == 403
    assert statuses(served.folder)["slow"] == "IN_PROGRESS"


def test_forms_of_other_sites_and_sessions_are_refused(operator, served):
    csrf, other = operator.csrf(), Browser(served.url)
    other.form("login", token=TOKEN)
    assert operator.form("cancel?id=slow").status_code == 403
    assert operator.form("cancel?id=slow", csrf=other.csrf()).status_code == 403
    for origin in ("http://evil.example", "null", "", "http://[::1", f"{served.url}.evil.example"):
        assert operator.form("cancel?id=slow", origin, csrf=csrf).status_code == 403
    form = {"headers": {"Origin": served.url, "Sec-Fetch-Site": "cross-site"}, "data": {"csrf": csrf}}
    assert operator.post(f"{served.url}/cancel?id=slow", timeout=20, **form).status_code == 403
    assert statuses(served.folder)["slow"] == "IN_PROGRESS"


def test_a_session_is_bound_to_the_cookie_and_ends(served, monkeypatch):
    answer = Browser(served.url).form("login", token=TOKEN)
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {each.strip() for each in cookie.split(";")}
    assert TOKEN not in cookie
    tls = Browser(served.url).form("login", served.url.replace("http:", "https:"), token=TOKEN)
    assert "; Secure" in tls.headers["Set-Cookie"]
    operator = Browser(served.url)
    operator.form("login", token=TOKEN)
    assert operator.form("logout", csrf=operator.csrf()).status_code == 303
    assert not operator.cookies
    access = Access(TOKEN, "127.0.0.1:80")
    value = access.login(TOKEN)
    assert access.session(f"geotile_page={value}") is not None
    others = (
        'x={"a":1,"b":2}; x[a]=1; a=b c; lone; geotile_page=old'  # of other programs on the host; cookies know no ports
    )
    assert access.session(f"{others}; geotile_page={value}; @foo/bar=1") is not None
    assert Access(None, "127.0.0.1:80").session(f"geotile_page={value}") is None
    assert Access("another token", "127.0.0.1:80").session(f"geotile_page={value}") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 9 * 3600)
    assert access.session(f"geotile_page={value}") is None


def test_hosts_that_are_not_known_get_no_page(guest):
    for host, status in (
        ("evil.example", 421),
        ("jobs.example", 200),
        ("localhost:1", 200),
        ("[::1]:9100", 200),
        ("a@b", 421),
    ):
        for path in ("", "metrics"):
            assert guest.get(f"{guest.url}/{path}", headers={"Host": host}, timeout=20).status_code == status
    for path in ("healthz", "readyz"):  # on one connection, where a body after HEAD would be the next answer
        assert guest.head(f"{guest.url}/{path}", timeout=20).status_code == 200
        assert guest.get(f"{guest.url}/{path}", headers={"Host": "evil.example"}, timeout=20).status_code == 200


def test_a_job_is_cancelled_and_retried_and_nothing_is_paid_twice(operator, served):
    model = served.model
    before = model.requests
    answer = operator.form("cancel?id=slow", csrf=operator.csrf())
    assert (answer.status_code, answer.headers["Location"]) == (303, "job?id=slow&said=cancel")
    assert "cancelled" in operator.page(answer.headers["Location"]).text_content()
    until(lambda: statuses(served.folder)["slow"] == "CANCELLED")
    assert "there is nothing to cancel" in operator.form("cancel?id=slow", csrf=operator.csrf()).text
    first = same_figures(operator, served.folder)
    assert first == {"Tiles": "0 of 15", "Failed tiles": "0", "Detections": "0"}
    model.go.set()
    (action,) = until(lambda: operator.page(job("slow")).xpath("//form[starts-with(@action, 'retry')]/@action"))
    assert operator.form(action, csrf=operator.csrf()).headers["Location"] == "job?id=slow&said=retry"
    until(lambda: statuses(served.folder)["slow"] == "PARTIAL")
    assert model.requests - before <= 15 + 4  # tiles, and those that were in flight
    assert "it is done, without some tiles" in operator.page(job("slow")).text_content()
    assert same_figures(operator, served.folder)["Tiles"] == "15"
    (record,) = (each for each in geotile.jobs(served.folder) if each.job_id == "slow")
    assert record.queued <= record.started <= record.finished
    text = operator.form("retry?id=slow", csrf=operator.csrf()).text
    assert "cannot be retried" in text
    assert any('"the page: cancel from 127.0.0.1"' in line for line in served.logs)


def same_figures(browser, folder) -> dict[str, str]:
    """The figures of the slow job, which its page, the list and ``geotile jobs`` must agree on."""

    def text(element):  # the bar of progress has a text of its own, for browsers that do not draw it
        return element.text_content().strip().rpartition("\n")[2].partition(" (")[0]

    terms = {each.find("dt").text: text(each.find("dd")) for each in browser.page(job("slow")).xpath("//dl/div")}
    terms |= {name.removesuffix(" before merging"): value for name, value in terms.items()}
    found = {name: terms[name] for name in ("Tiles", "Failed tiles", "Detections")}
    row = browser.page().xpath("//tr[@data-key='slow']")[0]
    listed = {each.get("data-label"): text(each) for each in row.xpath("td")}
    assert [listed[name] for name in ("Tiles", "Failed", "Detections")] == list(found.values())
    line = next(each for each in cli("jobs", "--queue", folder).stdout.splitlines() if each.startswith("slow "))
    assert re.search(r"  {Tiles} +{Failed tiles} +{Detections}( |$)".format(**found), line), line
    return found


# --- what it costs


@pytest.fixture
def local(tmp_path):
    """A function that serves the page of a queue in this process."""
    servers = []

    def serve(queue=tmp_path, **more):
        records = Records(Folder.at(tmp_path / "state"))
        arguments = {"token": None, "waiting": lambda: 7.0} | more
        access = Access(arguments["token"], "127.0.0.1:0")
        page = Page(queue=str(queue), records=records, access=access, health=Health(), waiting=arguments["waiting"])
        server = serve_http("127.0.0.1:0", Health(), lambda: True, CollectorRegistry(), page, access.knows_host)
        servers.append(server)
        return Browser(server.__enter__()), records

    yield serve
    for server in servers:
        server.__exit__(None, None, None)


def many(records, count):
    """Store records as they are on a disk, without waiting for it."""
    folder = Path(records.folder.uri) / "records"
    folder.mkdir(parents=True)
    images = [ImageRecord(image=f"s3://bucket/{n}.tif", tiles=100) for n in range(3)]
    for number in range(count):
        status = ("SUCCESS", "FAILED")[number % 2]
        record = JobRecord(
            job_id=f"job-{number:05d}",
            status=status,
            queued=number,
            finished=number,
            images=images,
            reasons=["x" * 5000],
        )
        (folder / f"{record.job_id}.json").write_text(record.model_dump_json())


def test_thousands_of_jobs_are_paged(local):
    guest, records = local()
    many(records, 3000)
    page = guest.page()
    assert page.xpath("//b[@data-live='count-done']")[0].text == "1,500"
    assert len(page.xpath("//tbody/tr")) == 20
    page = guest.page("?show=failed&page=30&find=job-")
    assert len(page.xpath("//tbody/tr")) == 50
    assert page.xpath("//a[@rel='prev']/@href") == ["?find=job-&show=failed&page=29"]
    assert not page.xpath("//a[@rel='next']")
    started = time.perf_counter()
    guest.page("?show=done&page=99999999999")
    assert time.perf_counter() - started < 2


def test_long_texts_of_requests_do_not_make_long_pages(local):
    guest, records = local()
    image = ImageRecord(
        image="s3://b/" + 300_000 * "i",
        outputs={f"{n}-File": 9000 * "o" for n in range(30)},
        status="SUCCESS",
        shape_yx=(9, 9),
    )
    records.save(
        JobRecord(
            job_id="a",
            job_name=500_000 * "n",
            endpoint=90_000 * "e",
            status="FAILED",
            finished=1.0,
            images=[image] * 60,
            reasons=[9000 * "r"] * 30,
            warnings=[9000 * "w"] * 90,
        )
    )
    assert "a name of 500,000 characters" in guest.page().text_content()
    assert "and 25 more" in guest.page("job?id=a").text_content()


@pytest.mark.parametrize("character", ["'", "&", "\U0001f6f0", "a"])
def test_a_page_of_a_job_is_small_whatever_its_texts_become_as_html(local, character):
    guest, records = local()
    image = ImageRecord(
        image=f"/data/{600 * character}.tif", status="PARTIAL", shape_yx=(1000, 1000), failures=100,
        failed_tiles=[[n, n + 1, n, n + 1] for n in range(100)],
        outputs={f"{n}-File": f"/out/{400 * character}{n}.parquet" for n in range(5)},
    )  # fmt: skip
    records.save(
        JobRecord(
            job_id=33 * character, job_name=2000 * character, endpoint=2000 * character, status="PARTIAL", finished=2.0,
            warnings=20 * [600 * character], reasons=10 * [3000 * character], images=50 * [image],
        )
    )  # fmt: skip
    for name in ("", "?show=done", f"job?id={quote(33 * character)}"):
        assert requests.get(f"{guest.url}/{name}", timeout=20).ok
        assert len(requests.get(f"{guest.url}/{name}", timeout=20).content) < MAX_BYTES


def test_a_page_that_hangs_does_not_hold_up_the_health_check(local, monkeypatch):
    guest, _ = local()
    hang = threading.Event()
    monkeypatch.setattr(JobList, "read", lambda self: hang.wait(30) and [])
    threads = [threading.Thread(target=guest.get, args=(guest.url,)) for _ in range(3 * AT_ONCE)]
    for each in threads:
        each.start()
    try:
        until(lambda: requests.get(guest.url, timeout=20).status_code == 503)
        assert requests.get(f"{guest.url}/healthz", timeout=2).status_code == 200
    finally:
        hang.set()
        for each in threads:
            each.join()


DRIPS = (b"a", b"a", b"GET /page.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
BEGINNINGS = (
    b"GET / HTTP/1.1\r\nX: ", b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 16000\r\n\r\n", DRIPS[2],
)  # fmt: skip


def test_connections_that_are_slow_on_purpose_do_not_hold_up_the_health_check(local):
    guest, _ = local()
    address, stop = ("127.0.0.1", int(guest.url.rpartition(":")[2])), threading.Event()
    slow = [socket.create_connection(address) for _ in range(330)]

    def drip():
        texts = BEGINNINGS
        while not stop.wait(0.5):
            for number, each in enumerate(slow):
                with contextlib.suppress(OSError):  # it was closed
                    each.sendall(texts[number % 3])
            texts = DRIPS

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        time.sleep(1.0)
        assert requests.get(f"{guest.url}/healthz", timeout=10).status_code == 200
    finally:
        stop.set()
        thread.join()
        for each in slow:
            each.close()


def test_a_queue_in_sqs_says_what_it_cannot_do(local):
    guest, records = local("sqs://jobs")
    records.save(JobRecord(job_id="a", status="FAILED", digest="5d0c", finished=1.0))
    assert "About 7 requests wait in the SQS queue" in guest.page().text_content()
    assert "in the dead letters of the SQS queue" in guest.page(job("a")).text_content()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (geotile.OutputError("cannot read s3://me:hidden@b: denied"), 503, "cannot read s3://***@b: denied"),
        (ValueError("hidden"), 500, "See the log"),
    ],
)
def test_an_error_is_a_message(local, monkeypatch, error, status, said):
    def fail(self):
        raise error

    guest, _ = local()
    monkeypatch.setattr(JobList, "read", fail)
    text = guest.page(status=status).text_content()
    assert said in text
    assert "hidden" not in text


def finished(image, outputs, count):
    image = ImageRecord(
        image=str(image),
        status="SUCCESS",
        shape_yx=(1000, 2000),
        scale_yx=(2.0, 2.0),
        detections=count,
        outputs=outputs,
    )
    return JobRecord(job_id="a", status="SUCCESS", started=1.0, images=[image])


def test_of_a_large_output_an_even_sample_is_drawn(tmp_path):
    path, count = tmp_path / "a.geojson", 60_000
    with open(path, "w") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for n in range(count):
            box = [n / count * 4000, 0, n / count * 4000 + 10, 20]
            file.write(
                ("," if n else "")
                + "\n"
                + json.dumps(
                    {
                        "type": "Feature",
                        "properties": {"imageBBox": box, "label": "ship" if n % 2 else "<b>", "text": 100 * "x"},
                    }
                )
            )
        file.write("\n]}\n")
    record = finished("a.tif", {"0-File": str(path)}, count)
    found = found_in(Records(Folder.at(tmp_path)), record, 0)
    assert (len(found.boxes), found.total) == (MAX_SHAPES, count)
    assert found.boxes[:, 3].max() == 10  # in pixels of the image, half as many as of the file
    assert np.histogram(found.boxes[:, 0], 8, (0, 2000))[0].min() > MAX_SHAPES / 16
    drawing = image_map(record.images[0], found)
    assert {each.name for each in drawing.layers} == {"ship", "<b>"}
    assert sum(len(each.path) for each in drawing.layers) < 100_000


@pytest.mark.parametrize("kind", ["missing", "pipe", "link", "damaged", "secret", "chain", "stream"])
def test_an_output_that_cannot_be_read_is_a_note(tmp_path, kind):
    path = tmp_path / "a.parquet"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "link":
        path.symlink_to("/etc/hostname")
    if kind == "damaged":
        path.write_bytes(b"PAR1 and more")
    others = {
        "secret": "https://***@host/a.parquet",
        "chain": "s3://b/a::http://127.0.0.1/a.parquet",
        "stream": "kinesis://found",
    }
    uri = others.get(kind, str(path))
    found = found_in(Records(Folder.at(tmp_path)), finished("a.tif", {"0-File": uri}, 5), 0)
    assert (len(found.boxes), found.total) == (0, 5)
    assert ("cannot be read" in found.note) is (kind != "stream")


def test_an_output_that_another_job_has_replaced_is_not_drawn(tmp_path):
    lines = [json.dumps({"properties": {"imageBBox": [0, 0, 9, 9], "label": "ship"}}) for _ in range(2)]
    (tmp_path / "a.geojson").write_text('{"features": [\n' + ",\n".join(lines) + "\n]}\n")
    image = write_example()
    geotile.detect_to(image, bright_objects, tmp_path / "b.parquet", tile_size=128, overlap=32)
    for name, rows in (("a.geojson", 2), ("b.parquet", 3)):
        uri = str(tmp_path / name)
        own = found_in(Records(Folder.at(tmp_path)), finished("a.tif", {"0-File": uri}, rows), 0)
        assert (len(own.boxes), own.note) == (rows, "")
        other = found_in(Records(Folder.at(tmp_path)), finished("a.tif", {"0-File": uri}, 5), 0)
        assert len(other.boxes) == 0
        assert f"it holds {rows} detections and the job wrote 5, so it was replaced" in other.note


def test_a_checkpoint_is_drawn_region_by_region(tmp_path, served):
    records = Records(Folder.at(tmp_path))
    with ModelServer(crowd) as model:
        table = geotile.detect(
            str(served.root / "image.tif"),
            model.url,
            tile_size=128,
            overlap=32,
            merge=geotile.KeepAll(),
            checkpoint=str(tmp_path / "work" / "a" / "0" / "checkpoint"),
        )
    image = ImageRecord(image="a.tif", status="IN_PROGRESS", shape_yx=(300, 420))
    found = found_in(records, JobRecord(job_id="a", images=[image]), 0)
    assert found.total == len(found.boxes) == len(table) > 20
    assert "before merging" in found.note
    (tmp_path / "work" / "a" / "0" / "checkpoint" / "job.json").write_text("{}")
    assert "cannot be read" in found_in(records, JobRecord(job_id="a", images=[image]), 0).note


def test_a_label_keeps_its_colour():
    def colours(labels):
        drawing = image_map(
            ImageRecord(image="a", shape_yx=(9, 9)), Found(boxes=np.ones((len(labels), 4)), labels=labels)
        )
        return {each.name: each.colour for each in drawing.layers}

    six = ["a", "b", "b", "c", "d", "e", "f"]
    assert sorted(colours(six).values()) == [0, 1, 2, 3, 4, 5]
    assert colours(six) == colours([*six, "a", "a", "f"])
    assert colours(["b"]) == {"b": colours(["b", "b"])["b"]}
    many = colours([*six, "g", *"abcde"])
    assert len(set(many.values())) == len(many) == 6


def test_shapes_of_strange_numbers_stay_small():
    boxes = np.array([[-1e300, 0, 1e300, 5], [0, 0, 1e-9, 2]])
    found = Found(boxes=boxes, labels=[500 * "x", "b"])
    drawing = image_map(ImageRecord(image="a.tif", shape_yx=(500, 1000)), found)
    assert [each.path for each in drawing.layers] == ["M-1000 0h3000v5h-3000z", "M0 0h0v2h0z"]
    assert max(len(each.name) for each in drawing.layers) == 61
    crowded = image_map(
        ImageRecord(image="a.tif", shape_yx=(500, 1000)), Found(boxes=np.zeros((9, 4)), labels=list("abcdefghi"))
    )
    assert [each.name for each in crowded.layers][-1] == "4 other labels"


@pytest.mark.parametrize(
    ("uri", "why_not"),
    [
        ("https://host/a.tif", "only from folders and object storage"), ("/vsicurl/https://host/a.tif", "only from folders"),
        ("s3://***@bucket/a.tif", "has a secret"), ("/data/scene.zarr", "Zarr stores"), ("missing.tif", "no such image"),
    ],
)  # fmt: skip
def test_images_that_are_not_cheap_and_safe_have_no_picture(uri, why_not):
    record = finished(uri, {}, 0)
    assert why_not in Pictures().get(record, 0, 20).why_not
    record.images[0].shape_yx = None
    assert Pictures().get(record, 0, 20).why_not == "No run of the image has begun."


def test_a_picture_is_made_from_an_overview_or_not_at_all(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1600, 1600), np.uint8)
    write_tiff(tmp_path / "noise.tif", pixels, tiled=True)
    picture = Pictures().get(finished(tmp_path / "noise.tif", {}, 0), 0, 30)
    assert 0 < len(picture.jpeg) <= 160_000
    monkeypatch.setattr("geotile.service.page.picture._MAX_VALUES", 2_000_000)
    assert "no overview" in Pictures().get(finished(tmp_path / "noise.tif", {}, 0), 0, 30).why_not
    write_tiff(tmp_path / "overviews.tif", pixels, tiled=True)
    with rasterio.open(tmp_path / "overviews.tif", "r+") as file:
        file.build_overviews([2, 4])
    assert Pictures().get(finished(tmp_path / "overviews.tif", {}, 0), 0, 30).jpeg


def class_map_job(tmp_path):
    """A job of an image of which three quarters are a class map; the upper left quarter has no data."""
    pixels = np.full((3, 1000, 2000), 200, np.uint8)
    pixels[:, 500:, 1000:], pixels[:, :500, :1000] = 0, 255
    write_tiff(tmp_path / "image.tif", pixels, tiled=True, nodata=255)

    def classes(tile):
        return (tile[0] < 100).astype(np.uint8)

    job = {"tile_size": 500, "overlap": 0, "classes": ["land", "water"]}
    geotile.predict_to(tmp_path / "image.tif", classes, tmp_path / "map.tif", **job)
    record = finished(tmp_path / "image.tif", {"0-File": str(tmp_path / "map.tif")}, 0)
    record.task, record.images[0].pixels_missing = "predict", 1234
    return record


def shown(picture):
    with rasterio.MemoryFile(picture.jpeg) as memory, memory.open() as file:
        pixels = file.read().astype(int)
    height, width = pixels.shape[1:]
    return [pixels[:, y * height // 8, x * width // 8].tolist() for y, x in ((2, 2), (2, 6), (6, 6))]


def test_a_class_map_is_drawn_over_its_image(tmp_path):
    record = class_map_job(tmp_path)
    picture = Pictures().get(record, 0, 30)
    assert picture.legend == (("land", "#2e5eb8"), ("water", "#b82e36"))
    land, water = ([int(text[k : k + 2], 16) for k in (1, 3, 5)] for _, text in picture.legend)
    plain = record.model_copy(update={"task": "detect"})
    assert Pictures().get(plain, 0, 30).legend == ()
    under = shown(Pictures().get(plain, 0, 30))  # stretched
    want = [
        under[0],
        *([0.4 * u + 0.6 * c for u, c in zip(a, b, strict=True)] for a, b in ((under[1], land), (under[2], water))),
    ]
    np.testing.assert_allclose(shown(picture), want, atol=12)  # of JPEG
    (tmp_path / "image.tif").unlink()
    np.testing.assert_allclose(
        shown(Pictures().get(record, 0, 30))[1:],
        [[0.4 * 255 + 0.6 * c for c in land], [0.4 * 255 + 0.6 * c for c in water]],
        atol=12,
    )
    (tmp_path / "map.tif").unlink()
    assert "no such image" in Pictures().get(record, 0, 30).why_not


def test_scores_are_not_drawn_as_classes(tmp_path):
    def scores(tile):
        return np.stack([tile[0] / 255, 1 - tile[0] / 255]).astype(np.float32)

    pixels = np.full((3, 500, 500), 200, np.uint8)
    write_tiff(tmp_path / "image.tif", pixels, tiled=True)
    geotile.predict_to(tmp_path / "image.tif", scores, tmp_path / "map.tif", tile_size=500, overlap=0, output="scores")
    record = finished(tmp_path / "image.tif", {"0-File": str(tmp_path / "map.tif")}, 0)
    record.task = "predict"
    picture = Pictures().get(record, 0, 30)
    assert (bool(picture.jpeg), picture.legend, picture.why_not) == (True, (), "")


def test_the_page_of_a_raster_job_has_its_legend_and_missing_pixels(local, tmp_path):
    browser, records = local()
    records.save(class_map_job(tmp_path))
    page = browser.page("job?id=a")
    assert [each.text_content() for each in page.xpath("//ul[@class='legend']/li")] == ["land", "water"]
    assert page.xpath("//ul[@class='legend']//*[local-name()='rect']/@fill") == ["#2e5eb8", "#b82e36"]
    assert "The class map is drawn over the image." in page.text_content()
    (missing,) = page.xpath("//dt[text()='Pixels missing']/following-sibling::dd")
    assert missing.text_content() == "1,234"


# --- how it is used: with a keyboard, a screen reader, and in the dark

CONTRASTS = """() => {
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const colour = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, a = 1] = colour(getComputedStyle(each).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest("svg, progress")) continue;
    const [a, b] = [luminance(colour(getComputedStyle(element).color).slice(0, 3)), luminance(behind(element))];
    found.push([text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}"""
OUTLINE = "() => parseFloat(getComputedStyle(document.activeElement).outlineWidth)"


@pytest.fixture(scope="module")
def chromium():
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no chromium; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def tab_to(page, name):
    """Press the tabulator until an element with a name has the focus, which must be visible."""
    for _ in range(60):
        page.keyboard.press("Tab")
        assert page.evaluate(OUTLINE) > 0
        if page.evaluate("document.activeElement.textContent || document.activeElement.id").strip() == name:
            return
    raise AssertionError(f"{name} cannot be reached")


def test_a_job_is_cancelled_with_a_keyboard(chromium, served):
    said, page = [], chromium.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(served.url)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the link that skips to the content
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(served.url)
    tab_to(page, "Log in")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    page.wait_for_function("document.activeElement.id === 'token'")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{served.url}/")
    tab_to(page, "Cancel job slower")
    page.keyboard.press("Enter")
    page.wait_for_url("**/job?id=slower&said=cancel")
    page.evaluate("window.isTheSame = true")
    tab_to(page, "Refresh")
    for _ in range(100):
        page.keyboard.press("Enter")
        if page.locator("[data-live='status']").inner_text() == "cancelled":
            break
        page.wait_for_timeout(100)
    assert page.evaluate("window.isTheSame && document.activeElement.id") == "refresh"
    assert page.locator("#news").inner_text() == "Status: cancelled"
    assert not [each for each in said if "Content Security Policy" in each or "Error" in each]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_and_all_controls_have_names(chromium, served, scheme):
    page = chromium.new_page(color_scheme=scheme)
    page.goto(f"{served.url}/login")
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{served.url}/")
    for path in ("", job("found"), job(HOSTILE), "login", "job?id=none"):
        page.goto(f"{served.url}/{path}")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 5
        assert not [each for each in contrasts if each[1] < 4.5]
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        nodes = [(each["role"]["value"], each.get("name", {}).get("value", "")) for each in tree if not each["ignored"]]
        named = ("link", "button", "textbox", "searchbox", "progressbar", "table", "image", "region", "navigation")
        assert not [role for role, name in nodes if role in named and not name.strip()]
        assert {role for role, _ in nodes} >= {"banner", "main", "contentinfo", "heading"}
        assert page.evaluate("document.documentElement.lang && document.querySelectorAll('h1').length") == 1
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(served.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    reasons = page.locator("td.reason bdi").all()
    assert len(reasons) >= 3
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 320 for box in (each.bounding_box() for each in reasons))
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    assert {each["role"]["value"] for each in tree if not each["ignored"]} >= {"table", "row", "rowheader", "cell"}
    page.close()
