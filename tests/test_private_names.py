"""Names of other libraries that are not documented but used here: these tests fail when one of them goes."""

import inspect


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


def test_rasterio():
    """`geotile.geometry.placement` catches the base class of GDAL's errors, which has no public name."""
    import pytest
    from rasterio._err import CPLE_BaseError
    from rasterio.control import GroundControlPoint
    from rasterio.errors import RasterioError
    from rasterio.transform import GCPTransformer

    with pytest.raises(CPLE_BaseError) as caught:  # ground control points that no polynomial fits
        GCPTransformer([GroundControlPoint(row=1, col=1, x=5, y=5)] * 4)
    assert not isinstance(caught.value, RasterioError)  # if it is one, the private name is no longer needed
