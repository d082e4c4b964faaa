"""Requests of a run over all processes: how many are in flight, which are retried, when to wait for the model.

::

    tile threads ─▶ Gate ── GateReport ──▶ Coordinator (limit, circuit)
     (a process)     ◀────── Allowance ──

Each process has one `Gate` for each run, which the run's tile threads pass. About ten times per second the gate
reports the outcomes of its requests to the run's `Coordinator` (`GateReport`) and receives the number of
requests that it may have in flight (`Allowance`). The coordinator is where all processes reach it: in the
process itself, or on Dask's scheduler.
"""

from geotile.traffic.coordinator import TrafficSettings
from geotile.traffic.gate import Gate
from geotile.traffic.gates import gate_of
from geotile.traffic.link import begin_run, end_traffic, stop_run_everywhere, traffic_now, waiting_for
from geotile.traffic.retry import RequestOutcome, send_with_retries
from geotile.traffic.start import as_concurrency, threads_for, traffic_settings, wait_until_ready

__all__ = [
    "Gate", "RequestOutcome", "TrafficSettings", "as_concurrency", "begin_run", "end_traffic", "gate_of",
    "send_with_retries", "stop_run_everywhere", "threads_for", "traffic_now", "traffic_settings", "wait_until_ready",
    "waiting_for",
]  # fmt: skip
