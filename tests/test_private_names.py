"""Names of other libraries that are not documented but used here: these tests fail when one of them goes."""

import inspect
from datetime import UTC, datetime, timedelta


def test_urllib3():
    """`geotile.endpoints.deadline` replaces the connection classes of urllib3's pools."""
    import urllib3

    from geotile.endpoints.deadline import DeadlineAdapter, _DeadlineMixin

    adapter = DeadlineAdapter()
    for manager in (urllib3.PoolManager(), adapter.poolmanager, adapter.proxy_manager_for("http://127.0.0.1:9")):
        assert set(manager.pool_classes_by_scheme) == {"http", "https"}
        for pool in manager.pool_classes_by_scheme.values():
            assert issubclass(pool.ConnectionCls, urllib3.connection.HTTPConnection)
            assert inspect.isfunction(pool.ConnectionCls.getresponse)
    for manager in (adapter.poolmanager, adapter.proxy_manager_for("http://127.0.0.1:9")):
        for scheme in ("http", "https"):
            connection = manager.connection_from_host("127.0.0.1", 9, scheme).ConnectionCls("127.0.0.1", 9)
            assert isinstance(connection, _DeadlineMixin)
            assert connection.sock is None


def test_distributed():
    """`geotile.traffic` adds handlers to the scheduler and calls the workers' `run` handler."""
    from distributed import Client
    from distributed.utils import sync

    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        scheduler, worker = client.cluster.scheduler, client.cluster.workers[0]
        assert isinstance(scheduler.handlers, dict)
        assert {"msg", "on_error"} <= set(inspect.signature(scheduler.broadcast).parameters)
        assert {"function", "args", "kwargs", "wait"} <= set(inspect.signature(worker.handlers["run"]).parameters)
        assert "callback_timeout" in inspect.signature(client.sync).parameters
        assert callable(client.scheduler.identity)  # an attribute of `client.scheduler` calls a handler
        assert "loop" in inspect.signature(sync).parameters
        assert worker.loop is not None


def test_botocore():
    """`geotile.storage.aws` reads when credentials expire."""
    from botocore.credentials import DeferredRefreshableCredentials, RefreshableCredentials

    expires = datetime.now(UTC) + timedelta(hours=1)
    metadata = {"access_key": "a", "secret_key": "b", "token": "c", "expiry_time": expires.isoformat()}
    made = RefreshableCredentials.create_from_metadata(metadata, lambda: metadata, "test")
    deferred = DeferredRefreshableCredentials(lambda: metadata, "test")
    deferred.get_frozen_credentials()
    assert made._expiry_time == deferred._expiry_time == expires
