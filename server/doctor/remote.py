"""Models that other servers run: there, and willing?"""

import asyncio

from server.catalogue import Entry
from server.config import ConfigError
from server.doctor.check import Check, fault, ok, warning
from server.remote import RemoteModel
from server.service.clients import client_of


def judge_remote(entry: Entry) -> Check:
    """Ask the server of a model for all that it has."""
    try:
        model = client_of(entry, lambda fault: None)
    except ConfigError as error:
        return fault("remote", str(error), "let the file hold the key alone", subject=entry.section)
    return judge_sight(entry, model, asyncio.run(_look(model)))


async def _look(model: RemoteModel) -> tuple[str, ...]:
    try:
        return await model.look()
    finally:
        await model.close()


def judge_sight(entry: Entry, model: RemoteModel, names: tuple[str, ...]) -> Check:
    """One server, after a look at it. ``names`` are the models that it lists."""
    spec, section = model.spec, entry.section
    if model.state.fault is not None:
        remedy = f"start it, or mend {section}.remote_url and {section}.remote_key_file"
        return fault("remote", model.state.fault, remedy, subject=section)
    found = f"{entry.name.display} runs at {spec.host} as {spec.model}"
    if names and not model.is_among(names):
        return warning(
            "remote",
            f"{found}, but that server lists only: {', '.join(names[:8])}",
            f"set {section}.remote_model to one of them",
            subject=section,
        )
    return ok("remote", found, subject=section)
