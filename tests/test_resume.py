"""Runs that are stopped: by Ctrl-C, by SIGKILL; and the command line that goes on."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import pytest
from helpers import cli, crowd
from shapely.geometry import box

import geotile
from geotile.checkpoints.checkpoint import Checkpoint
from geotile.core.digest import json_digest
from geotile.storage.folder import Folder
from geotile.testing import ModelServer

pytestmark = pytest.mark.slow

TILES = ["--tile-size", "64", "--overlap", "16", "--region-size", "128"]
KILLS = Path(__file__).resolve().parents[1] / "benchmarks" / "kills.py"


def geotile_cli(*words, **more) -> subprocess.Popen:
    command = [sys.executable, "-m", "geotile", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def ended(process: subprocess.Popen, status: int = 0) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    return " ".join((out + err).split())


def said(*words, status=0) -> str:
    done = cli(*words, status=status)
    return " ".join((done.stdout + done.stderr).split())


def some_regions(cp: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while len(list(cp.glob("*/*.parquet"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def path(write_tiff, noise):
    return write_tiff(noise)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_resume_goes_on_where_a_run_was_stopped(path, tmp_path, how):
    cp, out = tmp_path / "cp", tmp_path / "found.parquet"
    with ModelServer(crowd, latency_s=0.2) as server:
        words = [path, server.url, "-o", "found.parquet", *TILES, "--concurrency", 1, "--checkpoint", "cp"]
        run = geotile_cli("detect", *words, cwd=tmp_path)
        some_regions(cp, run)
        status = said("status", cp)
        assert re.search(r"state running \(process \d+ on", status)
        assert re.search(r"regions kept [1-5] of 6", status)
        assert re.search(r"tiles [1-9]\d* of 54", status)
        run.send_signal(how)
        began = time.monotonic()
        printed = ended(run, 130 if how is signal.SIGINT else -how)
        asked = server.requests
        if how is signal.SIGINT:
            assert time.monotonic() - began < 5
            assert "The finished regions are kept in" in printed
            assert "Resume with: geotile resume cp" in printed
            assert "Traceback" not in printed
        assert re.search(r"state (stopped|died)", said("status", cp))
        assert not out.exists()
        time.sleep(0.2)
        assert server.requests == asked
        server.latency_s = 0.0
        done = said("resume", cp)
        kept = int(re.search(r"tiles resumed (\d+)", done)[1])
        requests = int(re.search(r"requests (\d+) ", done)[1])
        assert 0 < kept == 54 - requests
        assert "state finished" in said("status", cp)
        geotile.detect_to(path, server.url, tmp_path / "want.parquet", tile_size=64, overlap=16, region_size=128)
    assert out.read_bytes() == (tmp_path / "want.parquet").read_bytes()


def test_ctrl_c_in_python_stops_a_cluster(path, tmp_path):
    code = """
import sys, geotile
from distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
        try:
            geotile.detect(sys.argv[1], sys.argv[2], tile_size=64, overlap=16, region_size=128, concurrency=2, checkpoint=sys.argv[3])
        except KeyboardInterrupt as error:
            print("stopped:", *error.__notes__, flush=True)
        print("free:", input(), flush=True)
"""
    cp = tmp_path / "cp"
    with ModelServer(crowd, latency_s=0.3) as server:
        words = [path, server.url, str(cp)]
        run = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        some_regions(cp, run)
        run.send_signal(signal.SIGINT)
        began = time.monotonic()
        said = run.stdout.readline()
        assert said.startswith("stopped: The finished regions are kept in"), run.communicate()
        assert time.monotonic() - began < 5
        time.sleep(0.5)
        asked = server.requests
        time.sleep(1.0)
        assert server.requests == asked < 54
        run.communicate("\n", timeout=60)
        server.latency_s = 0.0
        found = geotile.detect(path, server.url, tile_size=64, overlap=16, region_size=128, checkpoint=cp)
    assert found.attrs["report"].tiles_resumed > 0
    assert found.to_csv() == geotile.detect(path, crowd, tile_size=64, overlap=16, region_size=128).to_csv()


def test_secrets_are_not_kept_but_asked_for_again(path, tmp_path):
    cp = tmp_path / "cp"
    with ModelServer(crowd) as server:
        url = server.url.replace("http://", "http://me:hush@")
        given = ["--headers", "X-Key: hush", "-O", 'params={"CustomAttributes": "hush"}', "-O", "retries=2"]
        said("detect", path, url, "-o", tmp_path / "a.geojson", *TILES, *given, "--checkpoint", cp)
        assert b"hush" not in b"".join(each.read_bytes() for each in cp.rglob("*") if each.is_file())
        assert "was given --headers X-Key" in said("resume", cp, "--overwrite", status=2)
        assert "was given --option params" in said("resume", cp, *given[:2], status=2)
        given = given[:4]  # the number of retries is no secret, and stored
        assert "give it again with --endpoint" in said("resume", cp, *given, status=2)
        done = said("resume", cp, *given, "--endpoint", url, "--overwrite")
        assert "tiles resumed 54" in done


def test_a_call_with_relative_paths_is_resumed_from_another_folder(path, tmp_path, shared, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    Path("image.tif").symlink_to(path)
    Path("model.onnx").symlink_to(shared / "models" / "nanodet_m.onnx")
    Path("names.txt").write_text("thing\n" * 80)
    Path("roi.geojson").write_text(
        gpd.GeoSeries([box(500_010, 4_999_950, 500_040, 4_999_990)], crs="EPSG:32631").to_crs("OGC:CRS84").to_json()
    )
    words = [
        "image.tif",
        "onnx:model.onnx",
        "-o",
        "a.geojson",
        *TILES,
        "--roi",
        "roi.geojson",
        "-O",
        "labels=names.txt",
    ]
    said("detect", *words, "--checkpoint", "cp")
    monkeypatch.chdir(tmp_path / "second")
    assert re.search(r"requests 0 ", said("resume", "../first/cp", "--overwrite"))


def test_what_cannot_be_resumed_is_said(path, tmp_path):
    assert "is not a checkpoint" in said("resume", tmp_path / "nothing", status=2)
    assert "is not a checkpoint" in said("status", tmp_path / "nothing", status=2)
    geotile.detect(path, crowd, checkpoint=tmp_path / "cp")
    assert "was started in Python" in said("resume", tmp_path / "cp", status=2)
    status = said("status", tmp_path / "cp")
    assert "model helpers.crowd" in status
    assert "state finished" in status


def test_a_status_is_of_its_own_digest(path, tmp_path):
    geotile.detect(path, crowd, checkpoint=tmp_path / "cp", tile_size=64, overlap=16, region_size=128)
    job = json.loads((tmp_path / "cp" / "job.json").read_text())
    kept = Checkpoint(folder=Folder.at(tmp_path / "cp"), digest=json_digest(job["identity"])).finished(
        tuple(job["regions"])
    )
    assert kept.all()


def test_kills_change_nothing():
    """A round of one kind of benchmarks/kills.py, which does it by the hundred."""
    seed = str(int.from_bytes(os.urandom(3), "little"))
    choice = random.Random(seed)
    kinds = choice.sample(["worker", "nanny", "scheduler", "client", "threads"], 1)
    raster = choice.random() < 0.5
    command = [sys.executable, str(KILLS), "--rounds", "1", "--size", "960", "--kinds", *kinds, "--seed", seed]
    command += ["--raster"] * raster
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, (seed, kinds, raster, done.stderr[-3000:])
    for kind in kinds:
        assert re.search(rf"^{kind} +1 +[1-9]\d* +1 ", done.stdout, re.MULTILINE), done.stdout
