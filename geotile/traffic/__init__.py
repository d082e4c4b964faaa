"""Requests of a run, over all processes: how many at once, which again, when to wait for the model.

A process has a `Gate` for a run, which its tile threads pass. Every tenth of a second or so the gate
tells the run's `Coordinator` what came back (`GateReport`) and is told how many requests it may have in
flight (`Allowance`). The coordinator lives where all processes reach it: in the process itself, or on
Dask's scheduler.
"""

from geotile.traffic.ask import Asked, ask
from geotile.traffic.coordinator import Rules
from geotile.traffic.gate import Gate
from geotile.traffic.link import begin_run, end_traffic, gate_of, stop_run_everywhere, traffic_now
from geotile.traffic.start import as_concurrency, rules_for, threads_for, wait_until_ready

__all__ = [
    "Asked", "Gate", "Rules", "as_concurrency", "ask", "begin_run", "end_traffic", "gate_of", "rules_for",
    "stop_run_everywhere", "threads_for", "traffic_now", "wait_until_ready",
]  # fmt: skip
