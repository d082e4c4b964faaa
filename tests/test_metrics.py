"""The counters of a process."""

import subprocess
import sys

CODE = """
import sys, threading, prometheus_client
from geotile.core.metrics import count

sys.setswitchinterval(1e-6)
together, errors = threading.Barrier(16), []

def work():
    together.wait()
    try:
        count({"cut": 0.5}, regions=1)
    except ValueError as error:
        errors.append(error)

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors[:1]
assert prometheus_client.REGISTRY.get_sample_value("geotile_regions_total") == 16
"""


def test_threads_that_count_at_once_make_the_counters_once():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
