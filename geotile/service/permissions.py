"""What the requests of a service may name: the operator's choice, checked before anything is opened or asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from geotile.core.internal_hosts import internal_address
from geotile.core.redact import redact
from geotile.errors import ArgumentError, ServiceError
from geotile.imagery.redirects import redirect_targets
from geotile.imagery.stac import is_stac, stac_asset
from geotile.options import ServiceOptions
from geotile.service.request import JobRequest
from geotile.storage.place import Place, host_of

_GDAL_NAMES = {"/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://"}
_READABLE = {"file", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """The places that requests may name.

    Parameters
    ----------
    endpoints, images, outputs : sequence of Place or None
        Prefixes of what they may name; None for everything.
    from_network : bool
        Whether requests come from a queue that others fill: then internal hosts must be named by a prefix.
    """

    endpoints: Sequence[Place] | None = None
    images: Sequence[Place] | None = None
    outputs: Sequence[Place] | None = None
    from_network: bool = False

    @classmethod
    def of(cls, options: ServiceOptions, from_network: bool) -> Permissions:
        """Return the permissions that an operator gives.

        Raises
        ------
        ArgumentError
            If a prefix is not a place.
        """
        endpoints, images = _prefixes("endpoint", options), _prefixes("image", options)
        return cls(endpoints=endpoints, images=images, outputs=_prefixes("output", options), from_network=from_network)

    def check(self, request: JobRequest) -> None:
        """Check what a request names.

        Raises
        ------
        ArgumentError
            If it names something that it may not.
        ServiceError
            If the name of a host that must not be an internal one cannot be resolved now.
        """
        spec = request.image_processor.endpoint
        self._check("imageProcessor.name", spec, self.endpoints, "endpoint")
        if spec.lower().startswith("onnx:") and (self.endpoints is not None or self.from_network):
            for target in redirect_targets(spec.partition(":")[2]):  # those of other endpoints are not followed
                self._check("imageProcessor.name, redirected,", f"onnx:{target}", self.endpoints, "endpoint")
        for field, url in _images(request):
            self._check(field, _without_vsi(url), self.images, "image")
            if self.images is not None or self.from_network:
                self._check_targets(field, url, request)
        for number, output in enumerate(request.outputs):
            for name in request.output_names() if self.outputs is not None else ():
                self._check(f"outputs[{number}]", output.uri(name), self.outputs, "output")

    def _check_targets(self, field: str, url: str, request: JobRequest) -> None:
        """Check where an image really lies: the asset of a STAC item, and where a server redirects to."""
        asset = request.geotile.get("asset") if field.startswith("imageUrls") else None
        for target in redirect_targets(url):
            self._check(f"{field}, redirected,", target, self.images, "image")
        if is_stac(url, asset):
            href = stac_asset(url, asset)
            self._check(f"the asset of {field}", _without_vsi(href), self.images, "image")
            for target in redirect_targets(href):
                self._check(f"the asset of {field}, redirected,", target, self.images, "image")

    def _check(self, field: str, text: str, prefixes: Sequence[Place] | None, kind: str) -> None:
        if prefixes is None and not (self.from_network and kind != "output"):
            return
        remedy = f"the operator of the service can allow it with `geotile serve` --allow-{kind} PREFIX"
        place = _place(field, text, remedy)
        if prefixes is not None and not any(place.below(each) for each in prefixes):
            raise ArgumentError(f"{field} names {redact(text)!r}, which this service does not allow; {remedy}")
        if kind == "image" and place.scheme not in _READABLE:
            raise ArgumentError(f"{field} names {redact(text)!r}, which is not an image of a known kind of storage")
        if prefixes is None and (host := host_of(text)) is not None:
            _check_host(f"{field} names {redact(text)!r}", host, remedy)


def _images(request: JobRequest) -> Iterator[tuple[str, str]]:
    """Yield the fields of a request that name images, and their values."""
    for number, url in enumerate(request.image_urls):
        yield f"imageUrls[{number}]", url
    if dem := request.geotile.get("dem"):
        yield "geotile.dem", str(dem)


def _check_host(named: str, host: str, remedy: str) -> None:
    """Refuse a host inside this machine or its cloud, and one of which nobody knows where it is."""
    try:
        address = internal_address(host)
    except OSError as error:
        raise ServiceError(
            f"{named}, whose host cannot be resolved ({error}), so it may be inside this machine or its cloud; {remedy}"
        ) from None
    if address is not None:
        raise ArgumentError(
            f"{named}, whose address {address} is inside this machine or its cloud; requests from a queue of others "
            f"may not name it, but {remedy}"
        )


def _prefixes(kind: str, options: ServiceOptions) -> list[Place] | None:
    given: Sequence[str] | str | None = getattr(options, f"allow_{kind}s")
    if given is None:
        return None
    texts = [given] if isinstance(given, str) else given
    try:
        return [Place.prefix(text) for text in texts]
    except ArgumentError as error:
        raise ArgumentError(f"allow_{kind}s must be prefixes of URLs or folders: {error}") from None


def _without_vsi(url: str) -> str:
    """Return GDAL's plain name of an object in storage as a URI; other names as they are."""
    for prefix, scheme in _GDAL_NAMES.items():
        if url.startswith(prefix) and not any(each in url for each in ("//", ":", "?", "{")):
            return scheme + url.removeprefix(prefix)
    return url


def _place(field: str, text: str, remedy: str) -> Place:
    try:
        return Place.of(text)
    except ArgumentError as error:
        raise ArgumentError(f"{field} names what this service cannot check: {error}; {remedy}") from None
