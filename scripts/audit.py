"""Looks the locked packages up for known vulnerabilities, where a service that knows them can be reached.

    python scripts/audit.py requirements/base.txt requirements/dev.txt

Exit codes: 0 nothing is known against them, or nobody could be asked (it says which); 1 something is.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SERVICES = ("osv", "pypi")
TIMEOUT_S = 120


def main(files: Sequence[str]) -> int:
    """Ask one service after the other until one answers."""
    if importlib.util.find_spec("pip_audit") is None:
        print("audit: skipped: pip-audit is not installed (make install-dev)")
        return 0
    for service in SERVICES:
        report = asked(service, files)
        if report is not None and checked(report):
            return told(report)
    print("audit: skipped: no advisory service reachable")
    return 0


def asked(service: str, files: Sequence[str]) -> dict[str, Any] | None:
    """What pip-audit reports; None where it came to no report."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    command += ["--progress-spinner", "off", "--disable-pip", "--no-deps", "--timeout", "10"]
    command += [word for file in files for word in ("--requirement", file)]
    try:
        ended = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        report: dict[str, Any] = json.loads(ended.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return report


def checked(report: dict[str, Any]) -> list[str]:
    """The packages that the service knows: a mirror that has no advisories knows none of them."""
    return [package["name"] for package in report["dependencies"] if "skip_reason" not in package]


def told(report: dict[str, Any]) -> int:
    """Print what was found."""
    found = [package for package in report["dependencies"] if package.get("vulns")]
    for package in found:
        for vulnerability in package["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"audit: {package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    unknown = len(report["dependencies"]) - len(checked(report))
    print(f"audit: {len(checked(report))} packages looked up, {len(found)} with a flaw, {unknown} unknown")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
