"""Endpoints and their checks as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from geotile.core.html_table import html_card, html_table
from geotile.core.redact import redact

if TYPE_CHECKING:
    from geotile.endpoints.base import Check, Endpoint


def endpoint_html(endpoint: Endpoint) -> str:
    """Return what an endpoint is as HTML, without asking its model."""
    kind = type(endpoint)
    return html_card(f"{kind.__module__.partition('.')[0]}.{kind.__name__}", html_table(_rows(endpoint)))


def check_html(check: Check) -> str:
    """Return the result of a check as HTML."""
    message = check.message if check.ok else f"cannot be used: {check.message}"
    state = "bad" if not check.ok else "doubtful" if check.warnings else "good"
    return html_card("geotile.Check", html_table([("endpoint", message)]), state=state)


def _rows(endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    ours = type(endpoint).__module__.partition(".")[0] == "geotile"  # whose texts hold no secrets
    yield "model", str(endpoint) if ours else redact(str(endpoint))
    if said := endpoint.description():
        yield "what it is", said
    yield "runs", "elsewhere: one limit of requests for the whole cluster" if endpoint.remote else "in each process"
    yield "takes", "encoded tiles" if endpoint.wants_bytes else "arrays (band, y, x)"
    yield "tiles per request", f"up to {endpoint.batch_size:,}"
    if endpoint.input_yx is not None:
        height, width = endpoint.input_yx
        yield "size of its tiles", f"{width:,} x {height:,} px" + (", others are resized" * endpoint.resizes_tiles)
    if endpoint.max_request_bytes is not None:
        yield "largest request", f"{endpoint.max_request_bytes:,} bytes"
    if endpoint.remote:
        policy = endpoint.retry_policy
        yield "retries", f"up to {policy.retries:,} of a tile, the first after {policy.backoff_s:g} s on average"
        yield (
            "waits",
            f"{policy.ready_timeout_s:,g} s for a model that starts, {policy.outage_timeout_s:,g} s in an outage",
        )
