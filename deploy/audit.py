"""Ask for known vulnerabilities of installed packages, with pip-audit: ``python deploy/audit.py [SITE_PACKAGES]``.

The exit status is 1 if there are some. Where nothing can be asked (pip-audit is not installed, there is no network, an
index without advisories), the reason is printed and the exit status is 0.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from typing import Any

_TIMEOUT_S = 300


def audit(folder: str, *options: str) -> list[str]:
    """Return the known vulnerabilities of the packages in a folder, and print what was asked.

    Parameters
    ----------
    folder : str
        A ``site-packages``.
    *options : str
        Further options of pip-audit.
    """
    command = shutil.which("pip-audit")
    if command is None:
        print("audit skipped: pip-audit is not installed; pip install pip-audit")
        return []
    words = [command, "--path", folder, "--format", "json", "--progress-spinner", "off", *options]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"audit skipped: no answer within {_TIMEOUT_S} s")
        return []
    except (ValueError, KeyError):  # without a network pip-audit prints no report
        reason = done.stderr.strip().splitlines()
        print(f"audit skipped: {reason[-1] if reason else f'pip-audit ended with {done.returncode}'}")
        return []
    return _found(packages)


def _found(packages: list[dict[str, Any]]) -> list[str]:
    """Return the vulnerabilities in a report, and print how many packages nobody knew anything about."""
    skipped = {each["name"]: each["skip_reason"] for each in packages if "skip_reason" in each}
    skipped.pop("geotile", None)  # it is what is being built
    asked = [each for each in packages if "skip_reason" not in each]
    if not asked:
        print(f"audit skipped: {next(iter(skipped.values()), 'there are no packages')}")
        return []
    print(f"audit: {len(asked)} packages" + (f", but not {', '.join(sorted(skipped))}" if skipped else ""))
    return [
        f"{each['name']} {each['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version'}"
        for each in asked
        for flaw in each["vulns"]
    ]


if __name__ == "__main__":
    flaws = audit(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_paths()["purelib"])
    print(*flaws, sep="\n", end="\n" if flaws else "")
    sys.exit(1 if flaws else 0)
