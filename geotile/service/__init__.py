"""A service that runs jobs from a queue, like OversightML's model runner, on top of the library.

::

    Queue ─ Delivery ─▶ JobRequest ─ Intake ─▶ Backlog ─ next ─▶ JobRunner ─▶ dataset ─▶ outputs ─▶ Queue: complete
      ▲                     │ can never succeed                     │ fails
      └── release ──────────┴──────▶ Queue: reject ◀────────────────┘ max_attempts reached
"""

from geotile.options import ServiceOptions
from geotile.service.request import JobRequest
from geotile.service.serve import serve
from geotile.service.submit import jobs, submit

__all__ = ["JobRequest", "ServiceOptions", "jobs", "serve", "submit"]
