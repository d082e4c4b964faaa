"""Names of other libraries that are not documented but used here: these tests fail when one of them goes."""

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import dask.array as da
import numpy as np
import pytest


def test_dask_takes_a_pool_of_threads():
    """`geotile.core.daemon_pool` has the attribute of `ThreadPoolExecutor` that Dask's local scheduler reads."""
    import dask

    from geotile.core.daemon_pool import DaemonPool

    assert isinstance(ThreadPoolExecutor(3)._max_workers, int)
    with DaemonPool(3, "pool") as pool:
        assert (
            dask.delayed(lambda: threading.current_thread().name)()
            .compute(scheduler=dask.threaded.get, pool=pool)
            .startswith("pool_")
        )


def test_urllib3():
    """`geotile.core.deadline` replaces the connection classes of urllib3's pools."""
    import urllib3

    from geotile.core.deadline import DeadlineAdapter, _DeadlineMixin

    adapter = DeadlineAdapter()
    for manager in (urllib3.PoolManager(), adapter.poolmanager, adapter.proxy_manager_for("http://127.0.0.1:9")):
        assert set(manager.pool_classes_by_scheme) == {"http", "https"}
        for pool in manager.pool_classes_by_scheme.values():
            assert issubclass(pool.ConnectionCls, urllib3.connection.HTTPConnection)
            assert inspect.isfunction(pool.ConnectionCls.getresponse)
            assert inspect.isfunction(pool.ConnectionCls._new_conn)
    for manager in (adapter.poolmanager, adapter.proxy_manager_for("http://127.0.0.1:9")):
        for scheme in ("http", "https"):
            connection = manager.connection_from_host("127.0.0.1", 9, scheme).ConnectionCls("127.0.0.1", 9)
            assert isinstance(connection, _DeadlineMixin)
            assert connection.sock is None


def test_botocore_pools():
    """`geotile.endpoints.sagemaker` replaces the connection classes of a client's pools."""
    import botocore.session

    from geotile.core.deadline import _DeadlineMixin
    from geotile.storage.aws import with_deadlines

    client = with_deadlines(botocore.session.Session().create_client("sagemaker-runtime", region_name="us-east-1"))
    for scheme in ("http", "https"):
        pool = client._endpoint.http_session._manager.connection_from_host("127.0.0.1", 9, scheme)
        assert issubclass(pool.ConnectionCls, _DeadlineMixin)
        assert type(pool).__mro__[1].__module__ == "botocore.awsrequest"


def test_distributed():
    """`geotile.traffic` adds handlers to the scheduler, calls the workers' `run` handler, and knows which workers are left."""
    from distributed import Client
    from distributed.core import Status
    from distributed.utils import sync
    from distributed.utils_comm import retry

    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as client:
        scheduler, worker = client.cluster.scheduler, client.cluster.workers[0]
        assert isinstance(scheduler.handlers, dict)
        assert {"msg", "on_error"} <= set(inspect.signature(scheduler.broadcast).parameters)
        assert {"function", "args", "kwargs", "wait"} <= set(inspect.signature(worker.handlers["run"]).parameters)
        assert "callback_timeout" in inspect.signature(client.sync).parameters
        assert callable(client.scheduler.identity)  # an attribute of `client.scheduler` calls a handler
        assert "loop" in inspect.signature(sync).parameters
        assert worker.loop is not None
        assert scheduler.coerce_address(worker.address) in scheduler.workers
        assert worker.status in Status
        assert list(inspect.signature(retry).parameters)[:4] == ["coro", "count", "delay_min", "delay_max"]
    assert {Status.closing, Status.closed, Status.failed} <= set(Status)


def test_rasterio_err():
    """`geotile.geometry.placement` catches GDAL's errors of a transformer, which are not `RasterioError`s."""
    from rasterio._err import CPLE_BaseError
    from rasterio.control import GroundControlPoint
    from rasterio.errors import RasterioError
    from rasterio.transform import GCPTransformer

    with pytest.raises(CPLE_BaseError) as caught:  # ground control points that no polynomial fits
        GCPTransformer([GroundControlPoint(row=1, col=1, x=5, y=5)] * 4)
    assert not isinstance(caught.value, RasterioError)


def test_rasterio_driver_list(write_tiff, noise):
    """`geotile.imagery.open_files` opens files with the drivers that are allowed: `rasterio.open` takes one only."""
    import rasterio
    from rasterio.errors import RasterioError

    path = str(write_tiff(noise))
    with rasterio.DatasetReader(path, driver=["PNG", "GTiff"]) as file:
        assert file.driver == "GTiff"
    with pytest.raises(RasterioError, match="not recognized"):
        rasterio.DatasetReader(path, driver=["PNG", "JPEG"])


def test_rioxarray_coordinates():
    """`geotile.imagery.open` has rioxarray compute the coordinates of pixel centres."""
    from affine import Affine
    from rioxarray.rioxarray import affine_to_coords

    coordinates = affine_to_coords(Affine(2, 0, 10, 0, -4, 20), 3, 2)
    np.testing.assert_array_equal(coordinates["x"], [11, 13, 15])
    np.testing.assert_array_equal(coordinates["y"], [18, 14])


def test_botocore_credentials():
    """`geotile.storage.aws` reads when credentials expire, and gives a session those of an assumed role and one loader."""
    import botocore.session
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        DeferredRefreshableCredentials,
        RefreshableCredentials,
    )

    from geotile.storage.aws import _Resolver, aws_session

    expires = datetime.now(UTC) + timedelta(hours=1)
    refreshed = {"access_key": "role", "secret_key": "s", "token": "t", "expiry_time": expires.isoformat()}
    made = RefreshableCredentials.create_from_metadata(refreshed, lambda: refreshed, "test")
    deferred = DeferredRefreshableCredentials(lambda: refreshed, "assume-role")
    deferred.get_frozen_credentials()
    assert made._expiry_time == deferred._expiry_time == expires
    session = botocore.session.Session()
    session.register_component("credential_provider", _Resolver(deferred))
    assert session.get_credentials().access_key == "role"
    assert session.create_client("s3", region_name="us-east-1")._get_credentials().token == "t"
    loaders = [aws_session(None, None, "us-east-1").get_component("data_loader") for _ in range(2)]
    assert loaders[0] is loaders[1]
    assert {"sqs", "sagemaker"} <= set(loaders[0].list_available_services("service-2"))
    assert {"client_creator", "source_credentials", "role_arn"} <= set(
        inspect.signature(AssumeRoleCredentialFetcher).parameters
    )


def test_s3fs():
    """`geotile.storage.conditional` passes If-Match through `pipe_file`; tests/test_lease.py shows that it arrives."""
    from s3fs import S3FileSystem

    parameters = inspect.signature(S3FileSystem._pipe_file).parameters
    assert "mode" in parameters
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    assert callable(S3FileSystem.call_s3)
    assert S3FileSystem().split_path("bucket/a/key")[:2] == ("bucket", "a/key")


def test_dask_layer_annotations():
    """`geotile.imagery.file_array` keeps the source of an array with its layer, through pickling and optimizing."""
    import pickle

    array = da.ones((4, 4), chunks=2)
    array.dask.layers[array.name].collection_annotations["geotile_test"] = "source"
    copied = pickle.loads(pickle.dumps(array))
    for held in (array, array + 1, copied):
        assert held.dask.layers[array.name].collection_annotations["geotile_test"] == "source"
    assert array.dask.layers[array.name].annotations is None  # these would travel to the scheduler


def test_dask_overlap():
    """`geotile.imagery.overlap` asks for halos that trail only, and differ by axis."""
    from dask.array.overlap import overlap

    pixels = np.arange(8 * 6).reshape(1, 8, 6)
    halos = overlap(
        da.from_array(pixels, (1, 4, 3)), {0: 0, 1: (0, 2), 2: (0, 1)}, boundary="none", allow_rechunk=False
    )
    np.testing.assert_array_equal(halos.blocks[0, 0, 0].compute(), pixels[:, :6, :4])
    np.testing.assert_array_equal(halos.blocks[0, 1, 1].compute(), pixels[:, 4:, 3:])


def test_dask_graphs():
    """`geotile.running.run` makes a delayed value of an array's graph, `geotile.imagery.strips` an array of a graph."""
    from dask.blockwise import optimize_blockwise
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph

    array = da.ones((4,), chunks=4) + 1
    key = array.__dask_keys__()[0]
    node = Delayed(key, optimize_blockwise(array.dask, keys=[key]), layer=array.name)
    np.testing.assert_array_equal(node.compute(scheduler="sync"), [2, 2, 2, 2])
    graph = HighLevelGraph.from_collections("named", {("named", 0): (np.negative, key)}, dependencies=[array])
    named = da.Array(graph, "named", ((4,),), dtype=float, meta=array._meta)
    np.testing.assert_array_equal(named.compute(scheduler="sync"), [-2, -2, -2, -2])
