"""What the application is told in Ray Serve's configuration file, under ``args``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from server.config import ConfigError, split_address


def _check_address(address: str) -> str:
    split_address(address)
    return address


class Terms(BaseModel):
    """The same for all machines; what is a machine's own stands in its ``config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path | None = None
    """The settings file, at this path on every machine; none: defaults and the environment."""

    listen: Annotated[str, AfterValidator(_check_address)] = "0.0.0.0:8000"
    """Where Ray's proxy listens, as in ``http_options``: a service that only its own machine reaches checks
    Host headers, and one that the network reaches warns where there are no keys."""

    policy: Literal["prefix", "round_robin", "least_loaded"] = "prefix"
    spill_requests: int = Field(default=8, ge=0, le=10_000)
    """How much more than another a replica may have to do before conversations leave it."""

    body_mib: int = Field(default=32, ge=1, le=2048)
    """The largest body that the ingress holds; a machine may allow less (``limits.body_mib``)."""

    patience_s: float = Field(default=30.0, gt=0, le=3600)
    """So long a request waits for a replica that takes it."""

    attempts: int = Field(default=3, ge=1, le=10)
    """To how many replicas a request is sent, one after the other, as long as they are lost with it."""


def terms_of(args: Mapping[str, Any]) -> Terms:
    """The terms as the file has them.

    Raises:
        ConfigError: naming the argument, its value and what is wrong.
    """
    try:
        return Terms.model_validate(args)
    except ValidationError as error:
        known = ", ".join(Terms.model_fields)
        faults = [
            f"args.{'.'.join(map(str, fault['loc']))}: {fault['msg']}, but it is {fault['input']!r}"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigError(*faults, f"args may be: {known}; see docs/cluster.md") from None
