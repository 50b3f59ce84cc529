"""Reads a configuration file for ``serve deploy``, and says before Ray does what would go wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from server.cluster.terms import terms_of
from server.config import ConfigError, split_address

IMPORT_PATH = "server.cluster.app:build"
DEPLOYMENTS = ("Service", "Ingress")


@dataclass(frozen=True)
class Findings:
    """``faults`` keep the cluster from working; ``notes`` are what the file means."""

    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()


def checked(file: Path) -> Findings:
    """What is to be said of the file."""
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return Findings((f"{file}: cannot be read: {error}",))
    applications = read.get("applications") if isinstance(read, dict) else None
    if not isinstance(applications, list):
        return Findings((f"{file}: has no list of applications; docs/cluster/serve.yaml shows one",))
    ours = [one for one in applications if isinstance(one, dict) and one.get("import_path") == IMPORT_PATH]
    if not ours:
        return Findings((f"{file}: no application has import_path: {IMPORT_PATH}",))
    return _checked(ours[0], read.get("http_options") or {})


def _checked(application: Mapping[str, Any], http: Mapping[str, Any]) -> Findings:
    faults = list(_deployment_faults(application))
    try:
        terms = terms_of(application.get("args") or {})
    except ConfigError as error:
        return Findings((*faults, str(error)))
    host, port = split_address(terms.listen)
    bound = http.get("host", "0.0.0.0"), http.get("port", 8000)  # noqa: S104  # Ray's defaults
    if (host, port) != bound:
        faults.append(
            f'args.listen is "{terms.listen}", but http_options say {bound[0]}:{bound[1]}: '
            "let both say the same"
        )
    if application.get("route_prefix", "/") != "/":
        faults.append("route_prefix must be /, for clients look for /api and /v1 there")
    note = f"every machine reads {terms.config}" if terms.config else "every machine has its defaults"
    return Findings(tuple(faults), (f"{note}; requests are routed by {terms.policy}",))


def _deployment_faults(application: Mapping[str, Any]) -> list[str]:
    named = {str(one.get("name")): one for one in application.get("deployments") or ()}
    faults = [
        f"deployments: there is no {name}; known are {', '.join(DEPLOYMENTS)}"
        for name in named
        if name not in DEPLOYMENTS
    ]
    service = named.get("Service", {})
    several = service.get("num_replicas", 1) != 1 or "autoscaling_config" in service
    one_each = service.get("max_replicas_per_node") == 1 or "resources" in (
        service.get("ray_actor_options") or {}
    )
    if several and not one_each:
        faults.append(
            "deployments.Service: several replicas may land on one machine and share its cards; set "
            "max_replicas_per_node: 1"
        )
    return faults
