"""Chats of the sizes that the user tried by hand: a few, about 3,568 and about 10,981 estimated tokens."""

from typing import Any

QUESTION = "Which database failed most often?"


def log_text(chars: int) -> str:
    """A server's log of about ``chars`` characters, an error in every 40th line.

    Its long words are single tokens, which keeps the tests short where time goes by tokens.
    """
    lines: list[str] = []
    length = 0
    while length < chars:
        number = len(lines) + 1
        if number % 40:
            line = f"successfully processed information regarding international transportation, job {number}"
        else:
            line = f"ERROR TimeoutError: connect to db-{number % 3}.local:5432 failed after 30 s"
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines)[:chars]


def as_several_messages(estimated_tokens: int, system: str = "You are terse.") -> list[dict[str, Any]]:
    """A log handed over piece by piece, with the question at the end."""
    text = log_text(estimated_tokens * 4 - len(system) - len(QUESTION))
    step = -(-len(text) // 9)
    pieces = [text[start : start + step] for start in range(0, len(text), step)]
    talk = [
        {"role": "user" if number % 2 == 0 else "assistant", "content": piece}
        for number, piece in enumerate(pieces)
    ]
    return [{"role": "system", "content": system}, *talk, {"role": "user", "content": QUESTION}]


def as_one_message(estimated_tokens: int) -> list[dict[str, Any]]:
    """The same in a single message: instruction, log, question."""
    opening, closing = "Find the errors in this log:\n\n", f"\n\n{QUESTION}"
    text = log_text(estimated_tokens * 4 - len(opening) - len(closing))
    return [{"role": "user", "content": opening + text + closing}]
