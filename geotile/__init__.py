"""Run detection models over overhead images of any size.

>>> import geotile
>>> detections = geotile.detect("scene.tif", "https://models.example/invocations")  # doctest: +SKIP

Names are imported when they are first used (``__init__.pyi`` lists them), so that ``import geotile`` is fast. Public
are `geotile` itself, `geotile.errors`, `geotile.testing` and `geotile.detectors`.
"""

import lazy_loader

__version__ = "0.1.0"

_MODULES = ("detectors", "errors", "testing")
__getattr__, _names, _ = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _names() if name not in _MODULES]


def __dir__() -> list[str]:
    return list(__all__)
