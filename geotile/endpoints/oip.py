"""The Open Inference Protocol, version 2: KServe, Triton, OpenVINO Model Server, MLServer."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from geotile.core.option import documents, with_options
from geotile.core.timing import timed
from geotile.detectors import Detector
from geotile.detectors.array_network import refuse_divisor
from geotile.detectors.detector import decoder_identity
from geotile.endpoints.oip_arrays import OipArrayEndpoint
from geotile.endpoints.oip_server import OipServer
from geotile.errors import ArgumentError
from geotile.options import DecoderOptions, OipOptions

_DEFAULT_BATCH_SIZE = 8


@documents(OipOptions)
class OipEndpoint(OipServer):
    """A detector behind a server that implements the Open Inference Protocol.

    Inputs, outputs and the batch size are read from the server's metadata.

    Parameters
    ----------
    spec : str
        ``oip+http://host/v2/models/NAME``, or ``…/NAME/versions/VERSION``; ``oip+https`` with TLS.
    {options}

    Raises
    ------
    ArgumentError
        If the spec or an option cannot be used.

    Examples
    --------
    >>> OipEndpoint("oip+https://models.example/v2/models/planes", family="yolov8")
    OipEndpoint('oip+https://models.example/v2/models/planes')
    """

    takes_rgb = True

    @with_options(OipOptions).on_init
    def __init__(self, spec: str, options: OipOptions) -> None:
        super().__init__(spec, options)
        self._detector: Detector | None = None

    def description(self) -> str:
        """Return the family, the classes and the input of the model, once the server has described it."""
        return "" if self._detector is None else self._detector.description()

    def doubts(self) -> Sequence[str]:
        """Return what looks wrong about the model."""
        return [] if self._detector is None else self._detector.doubts()

    def identity(self) -> dict[str, Any]:
        """Return the model's URL, the versions that the server reports, and the options of the decoder."""
        return super().identity() | {"options": decoder_identity(self._options.part(DecoderOptions))}

    def for_rasters(self) -> OipArrayEndpoint:
        """Return the endpoint for a model whose output tensor is a raster."""
        return OipArrayEndpoint(self._spec, self._options)

    def for_embeddings(self) -> OipArrayEndpoint:
        """Return the endpoint for a model whose output tensor holds vectors."""
        return OipArrayEndpoint(self._spec, self._options)

    def with_score_threshold(self, score_threshold: float) -> OipEndpoint:
        """Return an endpoint with another minimum score."""
        changed = copy(self)
        changed._detector, changed._options = None, replace(self._options, score_threshold=score_threshold)
        return changed

    def for_run(self, tile_threads: int = 1) -> OipEndpoint:
        """Return an endpoint that has read the server's metadata."""
        if self._detector is not None:
            return self
        configured = copy(self)
        inputs, outputs = self._tensors()
        try:
            refuse_divisor(self._options)
            detector = Detector(inputs, outputs, **self._options.part(DecoderOptions).changed())
        except ArgumentError as error:
            raise ArgumentError(f"{self.display_url}: {error}") from None
        configured._detector = detector
        configured.batch_size = (
            self._options.batch_size or detector.batch_size or self._max_batch_size() or _DEFAULT_BATCH_SIZE
        )
        configured.input_yx, configured.resizes_tiles = detector.size_yx, detector.size_yx is not None
        configured.sample_shape = (3, *(detector.size_yx or (512, 512)))
        return configured

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Send tiles as one batch of tensors."""
        if self._detector is None:
            self.__dict__.update(self.for_run().__dict__)
        detector = self._detector
        assert detector is not None
        size = detector.batch_size or len(tiles)
        with timed("encode"):
            inputs, positions = detector.inputs_for([*tiles, *[tiles[-1]] * max(0, size - len(tiles))])
        outputs = self._infer(inputs, [output.name for output in detector.outputs])
        with timed("parse"):
            return detector.detections_from(outputs, positions)[: len(tiles)]
