"""The commented sample of a configuration file, made from the settings tree."""

import sys
import textwrap
from collections.abc import Iterator

from server.config.options import OPTIONS, SECTIONS, Option, toml_text

_HEAD = (
    'Settings of llm-optimizer. Every option stands here with its default; take away the "# " in front '
    "of one to change it. An environment variable wins over this file, and a flag wins over both."
)
_ORIGIN = "Made by: python -m server.config.sample > docs/config.sample.toml"
_WIDTH = 100


def sample_toml() -> str:
    """The text of the sample: all options, commented out."""
    blocks = [f"{_comment(_HEAD)}\n{_comment(_ORIGIN)}", *_option_blocks("")]
    for section, description in SECTIONS.items():
        blocks += [f"{_comment(description)}\n[{section}]", *_option_blocks(section)]
    return "\n\n".join(blocks) + "\n"


def _option_blocks(section: str) -> Iterator[str]:
    return (_option_block(option) for option in OPTIONS.values() if option.section == section)


def _option_block(option: Option) -> str:
    lines = [_comment(option.field.description or "")]
    if option.is_bounded:
        lines.append(_comment(f"Allowed: {option.allowed}"))
    lines.append(_comment("Environment: " + " or ".join(reversed(option.env_names))))
    lines.append(f"# {option.name} = {toml_text(option.default)}")
    return "\n".join(lines)


def _comment(text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    sys.stdout.write(sample_toml())
