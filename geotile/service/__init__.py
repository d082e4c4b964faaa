"""Jobs from a queue: what OversightML's model runner does, over the library.

::

    Queue ─ Delivery ─▶ JobRequest ─ inspected ─▶ Backlog ─ next ─▶ Job: detect ─▶ dataset ─▶ outputs
      ▲                     │ cannot succeed                             │ fails
      └── back, later ──────┴──────────────▶ dead letters ◀──────────────┘ too often
"""

from geotile.service.loop import ServiceOptions
from geotile.service.request import JobRequest
from geotile.service.serve import serve
from geotile.service.submit import jobs, submit

__all__ = ["JobRequest", "ServiceOptions", "jobs", "serve", "submit"]
