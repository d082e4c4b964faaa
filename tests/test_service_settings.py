"""Settings of ``geotile serve``: flags win over the environment, and that over a file; unknown names are refused."""

import re

import pytest
from helpers import cli

import geotile

FILE = """
queue = "from-file"
max-jobs = 3
max_backlog = 7
workers = [2, 4]
once = true
concurrency = 5
limit = {"http://a/b" = 3}

[option]
retries = 2
timeout_s = [5, 60]
"""


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A function that runs ``geotile serve`` and returns what it would serve with."""
    taken = {}
    monkeypatch.setattr(geotile, "serve", lambda queue, **options: taken.update(options, queue=queue))
    path = tmp_path / "settings.toml"

    def serve(*words, file=FILE):
        path.write_text(file or "")
        cli("serve", *(("--config", path) if file else ()), *words)
        return taken

    return serve


def test_a_file_sets_what_flags_set(served):
    taken = served()
    assert {name: taken[name] for name in ("queue", "max_jobs", "max_backlog", "workers", "once", "concurrency")} == {
        "queue": "from-file", "max_jobs": 3, "max_backlog": 7, "workers": (2, 4), "once": True, "concurrency": 5,
    }  # fmt: skip
    assert taken["limits"] == {"http://a/b": 3}
    assert taken["endpoint_options"] == {"retries": 2, "timeout_s": [5, 60]}
    assert taken["max_attempts"] == 5
    assert served(file='queue = "q"\noption = ["retries=3"]')["endpoint_options"] == {"retries": 3}


def test_flags_win_over_variables_and_these_over_the_file(served, monkeypatch, tmp_path):
    monkeypatch.setenv("GEOTILE_MAX_JOBS", "4")
    monkeypatch.setenv("GEOTILE_MAX_BACKLOG", "8")
    monkeypatch.setenv("GEOTILE_OPTION", "retries=4 ready_timeout_s=1")
    taken = served("--max-backlog", 9, "-O", "retries=5")
    assert (taken["max_jobs"], taken["max_backlog"], taken["queue"]) == (4, 9, "from-file")
    assert taken["endpoint_options"] == {"retries": 5}
    assert served()["endpoint_options"] == {"retries": 4, "ready_timeout_s": 1}
    (tmp_path / "other.toml").write_text(FILE)
    monkeypatch.setenv("GEOTILE_CONFIG", str(tmp_path / "other.toml"))
    monkeypatch.setenv("GEOTILE_QUEUE", "from-variable")
    taken = served(file=None)
    assert (taken["queue"], taken["workers"]) == ("from-variable", (2, 4))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("max_job = 3", "unknown setting 'max_job' in .*; did you mean 'max_jobs'"),
        ("config = 'x'", "unknown setting 'config'"),
        ("max_jobs = 0", "--max-jobs.*greater than or equal to 1"),
        ("max_jobs = 'many'", "--max-jobs.*many|max-jobs.*integer"),
        ("max_jobs = [1]", r"'max.jobs' in .* must be one value; got \[1\]"),
        ("limit = 3", "'limit' in .* must be a table of names and values, or a list of 'NAME=VALUE'; got 3"),
        ("max_jobs 3", "cannot be read: .*Give a TOML file, with lines such as 'max_jobs = 8'"),
        ("[option]\nretrys = 3", "option in .*settings.toml': unknown option 'retrys'; did you mean 'retries'"),
        ("max_jobs = 'abc'", "'--max-jobs': .*; got 'abc' in .*settings.toml"),
        ('[option."https://h/"]\nbearer = 5', "'bearer' in .* must be text in quotes; got a value of type int"),
        ('[option."https://u:pw@h/"]\nbearer = "5"', r"without a user name and a password; got 'https://\*\*\*@h/'"),
        ('allow_endpoint = "foo"', "--allow-endpoint must be URLs .*; got 'foo'. Add the scheme"),
        ('option = ["https://h/=bearer=XqhushZj", 1]', "'option' in .* must be a table .*; got a value of type list"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, file, said):
    (tmp_path / "settings.toml").write_text(file)
    done = cli("serve", "--queue", tmp_path / "q", "--config", tmp_path / "settings.toml", status=2)
    assert re.search(said, done.stderr.replace("\n", " ")), done.stderr


@pytest.mark.parametrize(
    ("variable", "words", "said"),
    [
        ("MAX_JOBS=abc", (), "'--max-jobs': .*; got 'abc' in GEOTILE_MAX_JOBS"),
        ("GRACE_S=nan", (), "'--grace-s': .*; got 'nan' in GEOTILE_GRACE_S"),
        ("OPTION=retrys=3", (), "'GEOTILE_OPTION': unknown option 'retrys'"),
        ("MAX_JOBS=3", ("--grace-s", "nan"), "'--grace-s': .*; got 'nan'$"),
        ("MAX_JOBS=3", ("--max-jobs=0",), "'--max-jobs': .*; got '0'$"),
    ],
)
def test_a_value_that_cannot_be_used_is_shown_with_its_place(tmp_path, monkeypatch, variable, words, said):
    name, _, value = variable.partition("=")
    monkeypatch.setenv(f"GEOTILE_{name}", value)
    done = cli("serve", "--queue", tmp_path / "q", *words, status=2)
    assert re.search(said, done.stderr.strip()), done.stderr


def test_submit_and_jobs_find_the_queue_of_the_service(tmp_path, monkeypatch):
    (tmp_path / "settings.toml").write_text(f'queue = "{tmp_path}/a b"\nmax_jobs = 3')
    monkeypatch.setenv("GEOTILE_QUEUE", str(tmp_path / "a b"))
    (tmp_path / "r.json").write_text(
        '{"jobId": "a", "imageUrls": ["a.tif"], "imageProcessor": {"name": "http://h/x", "type": "HTTP_ENDPOINT"}, '
        '"outputs": [{"type": "File", "path": "."}]}'
    )
    assert "a: 1 images" in cli("submit", tmp_path / "r.json").stdout
    monkeypatch.delenv("GEOTILE_QUEUE")
    assert "QUEUED" in cli("jobs", "--config", tmp_path / "settings.toml").stdout
    monkeypatch.setenv("GEOTILE_CONFIG", str(tmp_path / "settings.toml"))
    for words in (("b",), ("--cancel", "b")):
        done = cli("jobs", *words, status=1)
        assert f"has no job 'b'. List its jobs with: geotile jobs --queue '{tmp_path}/a b'" in done.stderr


def test_unknown_variables_are_refused(served, monkeypatch, tmp_path):
    for name in ("SCHEDULER_PORT", "SCHEDULER_PORT_8786_TCP_ADDR", "SERVE_SERVICE_HOST", "SERVE_SERVICE_PORT_HTTP"):
        monkeypatch.setenv(f"GEOTILE_{name}", "tcp://10.0.0.1:1")  # as Kubernetes sets them
    assert served()["max_jobs"] == 3
    monkeypatch.setenv("GEOTILE_MAXJOBS", "4")
    done = cli("serve", "--queue", tmp_path, status=2)
    assert "unknown setting 'GEOTILE_MAXJOBS' in the environment; did you mean 'GEOTILE_MAX_JOBS'?" in done.stderr
    assert "no such" not in cli("jobs", "--queue", tmp_path).stderr  # only serve reads them


def test_a_file_that_is_not_there(tmp_path):
    done = cli("serve", "--queue", tmp_path, "--config", tmp_path / "none.toml", status=2)
    assert "No such file" in done.stderr
