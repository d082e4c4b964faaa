"""The cache of a process: each value is built once, the least recently used one goes first."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest

from geotile.core.registry import Registry


def test_concurrent_calls_build_a_value_once():
    registry, built, together = Registry[str, object](4), [], Barrier(8)

    def build():
        built.append(time.sleep(0.05))
        return object()

    def get(_):
        together.wait()
        return registry.get("a", build)

    with ThreadPoolExecutor(8) as pool:
        values = set(pool.map(get, range(8)))
    assert len(built) == len(values) == 1


def test_a_slow_factory_delays_its_own_key_only():
    registry, started, proceed = Registry[str, str](4), Event(), Event()

    def slow():
        started.set()
        assert proceed.wait(10)
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(registry.get, "a", slow)
        assert started.wait(10)
        assert registry.get("b", lambda: "fast") == "fast"
        assert registry.peek("a") is None
        proceed.set()
        assert waiting.result() == "slow"


def test_the_least_recently_used_value_is_evicted_and_closed():
    closed = []
    registry = Registry[int, str](3, close=closed.append)
    for key in (1, 2, 3):
        registry.put(key, f"value {key}")
    registry.get(1, lambda: "not built")
    registry.peek(2)
    registry.put(4, "value 4")
    assert closed == ["value 3"]
    assert [registry.peek(key) for key in (1, 2, 3, 4)] == ["value 1", "value 2", None, "value 4"]
    registry.put(4, "newer")
    registry.discard(4, "value 4")  # no longer the value of the key
    assert registry.peek(4) == "newer"
    registry.discard(4, registry.peek(4))
    assert registry.peek(4) is None
    registry.clear()
    assert len(registry) == 0
    assert closed == ["value 3", "value 4", "newer", "value 1", "value 2"]


def test_a_factory_that_raises_leaves_nothing_behind():
    registry, calls, together = Registry[str, str](4), [], Barrier(4)

    def fails_twice():
        calls.append(time.sleep(0.02))
        if len(calls) <= 2:
            raise ValueError("not yet")
        return "built"

    with pytest.raises(ValueError, match="not yet"):
        registry.get("a", fails_twice)
    assert len(registry) == 0
    assert not registry._building

    def get(_):
        together.wait()
        try:
            return registry.get("a", fails_twice)
        except ValueError:
            return "failed"

    with ThreadPoolExecutor(4) as pool:
        results = sorted(pool.map(get, range(4)))
    assert results == ["built", "built", "built", "failed"]  # one call saw the second failure, then one built it
    assert len(calls) == 3
    assert not registry._building
