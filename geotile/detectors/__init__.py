"""Decoders of detection networks: tiles to input tensors, output tensors to boxes, scores and labels.

Names are imported when they are first used (``__init__.pyi`` lists them), so importing this package is cheap.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
