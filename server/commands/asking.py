"""Asking the service, and showing what it answers."""

import contextlib
import time
from typing import TYPE_CHECKING

from server.client.answers import Answer, Listening, warnings
from server.client.conversation import Conversation
from server.client.wire import CHAT
from server.commands.screen import Screen

if TYPE_CHECKING:
    from server.client.service import Service


def ask(service: "Service", conversation: Conversation, screen: Screen | None) -> Answer:
    """The answer, shown while it comes. Ctrl-C stops it: then what has come is the answer.

    Raises:
        ClientError: the service refused, or broke off.
    """
    listening = Listening(time.monotonic)
    objects = service.stream(CHAT, conversation.body)
    with contextlib.closing(objects), contextlib.suppress(KeyboardInterrupt):
        pieces = listening.pieces(objects)
        if screen is not None:
            screen.show(pieces, f"{conversation.model} reads")
        for _ in pieces:
            pass
    return listening.answer


def tell_warnings(answer: Answer, screen: Screen) -> None:
    """What nobody should miss."""
    for text in warnings(answer):
        screen.note(f"({text})")
