"""Who can reach the service, and whether it has keys for them."""

from pathlib import Path

from server.config import ConfigError, Settings, read_keys
from server.doctor.check import Check, fault, ok, warning
from server.sockets import is_loopback


def look_at_access(settings: Settings) -> Check:
    """Read the key file as the service will."""
    reached = [f"{host}:{port}" for host, port in settings.addresses if not is_loopback(host)]
    try:
        count = len(read_keys(settings.keys_file))
    except ConfigError as error:
        return judge_access(settings.keys_file, 0, str(error), reached)
    return judge_access(settings.keys_file, count, None, reached)


def judge_access(file: Path | None, count: int, error: str | None, reached: list[str]) -> Check:
    """``keys_file``, and the addresses that others reach as well."""
    if error is not None:
        return fault("keys", error, "docs/security.md says what a key file must be like")
    if file is not None:
        return ok("keys", f"{count} in {file}")
    if reached:
        return warning(
            "keys",
            f"none, and {', '.join(reached)} is open to the network: whoever reaches it may use the models",
            "set keys_file, or let listen name 127.0.0.1",
        )
    return ok("keys", "none, and only this machine reaches it")
