"""What is found out about a Dask cluster before a run is sent there, and how a run is ended there."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import metadata
from typing import Any
from uuid import uuid4

from rasterio.errors import RasterioError

from geotile.core.dask_info import active_client
from geotile.core.redact import redact
from geotile.errors import ArgumentError, OutputError
from geotile.imagery.source import Source, dataset
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)


def check_cluster(model: Any, source: Source | None, folders: Iterable[Folder]) -> None:
    """See that the workers can do a run: their Python, geotile, the model, the folders.

    Workers that come later are not looked at: their tasks fail with an error of their own.

    Parameters
    ----------
    model : Endpoint
    source : Source or None
        Of the image. One in a local file system is opened by each worker.
    folders : iterable of Folder
        Where workers are to write.

    Raises
    ------
    ArgumentError
        If one of them cannot; says which, and what to do.
    """
    client = active_client()
    if client is None:
        return
    if not client.nthreads():
        _log.warning("the Dask cluster at %s has no workers yet; the run waits for them", client.scheduler.address)
    here, version = platform.python_version_tuple()[:2], metadata.version("geotile")
    _all(client, platform.python_version_tuple, (), lambda found: tuple(found[:2]) == here,
         lambda found: f"runs Python {'.'.join(found[:2])}, and this is {'.'.join(here)}: what is sent there cannot be "
         "relied on; use one environment for all")  # fmt: skip
    _all(client, metadata.version, ("geotile",), lambda found: found == version,
         lambda found: f"has geotile {found}, and this is {version}: install the same there",
         missing="has no geotile: install it there, as here")  # fmt: skip
    _check_model(client, model)
    if source is not None and not source.location.is_remote:
        _check_image(client, source)
    for folder in folders:
        _check_folder(client, folder)


def on_all_workers(do: Callable[[str], None], run: str) -> None:
    """Call a function with a run's name on all workers, if there are any; one that has just gone does not matter."""
    client = active_client()
    if client is not None:
        with suppress(OSError):
            client.run(do, run, on_error="ignore")


def _all(client: Any, ask: Any, args: tuple[Any, ...], good: Any, say: Any, missing: str | None = None) -> None:
    """Ask scheduler and workers something of the standard library; complain of the first that answers badly."""
    answers: dict[str, Any] = {}
    with suppress(metadata.PackageNotFoundError):
        answers["scheduler"] = metadata.PackageNotFoundError("geotile")
        answers["scheduler"] = client.run_on_scheduler(ask, *args)
    answers |= client.run(ask, *args, on_error="return")
    for address, answer in answers.items():
        who = (
            f"the Dask scheduler {client.scheduler.address}" if address == "scheduler" else f"the Dask worker {address}"
        )
        if isinstance(answer, metadata.PackageNotFoundError) and missing is not None:
            raise ArgumentError(f"{who} {missing}")
        if isinstance(answer, OSError):
            continue  # it has just gone
        if isinstance(answer, BaseException):
            raise ArgumentError(f"{who} cannot be asked what it runs: {type(answer).__name__}: {answer}")
        if not good(answer):
            raise ArgumentError(f"{who} {say(answer)}")


def _check_model(client: Any, model: Any) -> None:
    from distributed.protocol.pickle import dumps

    try:
        data = dumps(model)
    except Exception as error:  # whatever an object of somebody else's raises
        raise ArgumentError(
            f"{model} cannot be sent to workers ({type(error).__name__}: {error}); give a factory that builds it "
            "there, with factory=True"
        ) from None
    for address, answer in client.run(_loads, data, on_error="return").items():
        if isinstance(answer, str):
            raise ArgumentError(
                f"the Dask worker {address} cannot load {model}: {answer}; install its module there, or upload it with "
                "client.upload_file"
            )


def _loads(data: bytes) -> str | None:
    from distributed.protocol.pickle import loads

    try:
        loads(data)
    except Exception as error:  # whatever the module of somebody else's model raises
        return f"{type(error).__name__}: {error}"
    return None


def _check_image(client: Any, source: Source) -> None:
    """See that workers see a local file."""
    for address, said in client.run(_opens, source, on_error="return").items():
        if isinstance(said, str):
            raise ArgumentError(
                f"the Dask worker {address} cannot open {source.location.display_name}: {said}; put the image where "
                "all of the cluster sees it, such as s3://"
            )


def _opens(source: Source) -> str | None:
    try:
        with source.location.environment():
            dataset(source)
    except (RasterioError, OSError) as error:
        return redact(str(error))
    return None


def _check_folder(client: Any, folder: Folder) -> None:
    """See that workers see what is written here."""
    probe = f".geotile-{uuid4().hex}"
    folder.write(probe, b"geotile")
    try:
        for address, seen in client.run(_sees, folder, probe, on_error="return").items():
            if seen is not True and not isinstance(seen, OSError):
                said = "" if seen is False else f" ({seen})"
                raise ArgumentError(
                    f"the Dask worker {address} does not see {folder.display_name}{said}: give a place that all of the "
                    "cluster shares, such as s3://, with credentials there"
                )
    finally:
        folder.remove(probe)


def _sees(folder: Folder, name: str) -> bool | str:
    try:
        return folder.read(name) == b"geotile"
    except OutputError as error:
        return str(error)
