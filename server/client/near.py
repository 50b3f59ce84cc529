"""Names that are like one that nobody has."""

import difflib
from collections.abc import Sequence

_MOST = 3
_LIKENESS = 0.5
"""From 0 to 1: "smollm" is like "smollm2:135m", "qwen" is not."""


def near(name: str, known: Sequence[str]) -> list[str]:
    """Those of ``known`` that ``name`` may mean, the most likely first: what has it in it, then what is spelt
    alike."""
    folded = {one.casefold(): one for one in known}
    wanted = name.casefold().removesuffix(":latest")
    parts = [one for one in folded if wanted and wanted in one]
    alike = difflib.get_close_matches(wanted, folded, n=_MOST, cutoff=_LIKENESS)
    return [folded[one] for one in dict.fromkeys([*parts, *alike])][:_MOST]


def no_such_model(text: str, name: str, known: Sequence[str]) -> str:
    """The service's words, and what to do."""
    meant = near(name, known)
    if meant:
        return f"{text}; did you mean {' or '.join(meant)}?"
    return f'{text}; "llm-optimizer list" shows what is here, "llm-optimizer pull NAME" brings more'
