"""Put the commands' own --help into the pages that show it.

It stands between <!-- NAME --help --> and <!-- /NAME --help -->. With --check nothing is written, and pages
that are not as they should be are named.
"""

import argparse
import re
import sys
from pathlib import Path

from typer.testing import CliRunner

from server.cli import COMMANDS, command_line
from server.commands.slash import table

PROJECT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/commands.md")
COMPLETE = "docs/commands.md"
"""The page that has every command."""


def main() -> int:
    """Write the pages, or say which of them are wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is wrong")
    check = parser.parse_args().check
    wrong = [page for page in PAGES if not bring_up_to_date(PROJECT / page, check=check)]
    text = (PROJECT / COMPLETE).read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if f"<!-- {name} --help -->" not in text]
    if check and wrong:
        print(f"not the commands' own help: {', '.join(wrong)}; run python scripts/help_pages.py")
    if missing:
        print(f"{COMPLETE} lacks {', '.join(missing)}")
    return 1 if missing or (check and wrong) else 0


def bring_up_to_date(page: Path, *, check: bool) -> bool:
    """Whether a page was as it should be; unless ``check``, it is afterwards."""
    text = page.read_text(encoding="utf-8")
    new = with_help(text)
    if new != text and not check:
        page.write_text(new, encoding="utf-8")
    return new == text


def with_help(text: str) -> str:
    """A page's text with the help of each command that it shows, and the commands within a chat."""
    for name in dict.fromkeys(re.findall(r"<!-- ([a-z]+) --help -->", text)):
        text = between(text, f"{name} --help", f"```\n{help_of(name)}\n```\n")
    return between(text, "chat commands", table())


def between(text: str, mark: str, content: str) -> str:
    """The text with ``content`` between the two marks, where it has them."""
    before, start, rest = text.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    return f"{before}{start}{content}{end}{after}" if end else text


def help_of(name: str) -> str:
    """What ``llm-optimizer NAME --help`` prints."""
    arguments = [name, "--help"]
    done = CliRunner().invoke(command_line(), arguments, prog_name="llm-optimizer", env={"COLUMNS": "100"})
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
