"""Is an agent at work? Its system prompt, tools and calls are a protocol that no model may paraphrase."""

import re
from collections.abc import Sequence

from server.domain.chat import Message

_XML_PROTOCOL = re.compile(r"<attempt_completion>|^TOOL USE$|\*SEARCH/REPLACE\* block", re.MULTILINE)
"""Of Cline and what came out of it (Roo Code, Kilo Code), and of Aider."""

_SUMMARISING = re.compile(
    r"\s*(?:you are a (?:helpful )?(?:context )?summari[sz]"
    r"|summari[sz]e the (?:provided|following|conversation|above)"
    r"|(?:your task is to )?(?:generate|create|write|provide)\b"
    r"[^.\n]{0,60}\b(?:title|summary|commit message)\b)",
    re.IGNORECASE,
)


def agent_signs(messages: Sequence[Message], *, has_tools: bool) -> str | None:
    """What shows that an agent is at work, in words; None: it is a plain chat."""
    if has_tools:
        return "the request brings tools"
    if any(message.role == "tool" or message.tool_calls for message in messages):
        return "tools were called in this chat"
    if any(message.role == "system" and _XML_PROTOCOL.search(message.content) for message in messages):
        return "its system prompt is an agent's protocol"
    return None


def is_summarising(messages: Sequence[Message], *, has_tools: bool) -> bool:
    """Whether a program asks for a summary, a title or a commit message: one question with its own orders."""
    orders = [message for message in messages if message.role == "system"]
    questions = [message for message in messages if message.role == "user"]
    if has_tools or len(questions) != 1 or len(orders) + 1 != len(messages) or not orders:
        return False
    return _SUMMARISING.match(orders[0].content) is not None
