"""Download the two real models from Hugging Face into models/ (about 5.8 GB).

Which files these are stands in models/catalogue.toml. A file that is there already is checked and left alone.
A download that broke off, or was stopped by hand, goes on where it stopped at the next run; a file gets its
name only when it is whole and its sha256 is right. HF_ENDPOINT names a mirror, HF_TOKEN an account.

"llm-optimizer pull" does the same for any model, with the settings of the service.
"""

import argparse
import os
import sys
from pathlib import Path

from server.catalogue.known import known_models
from server.config import load_settings
from server.pull import pull_command

MODELS = Path(__file__).resolve().parent.parent / "models"


def main() -> int:
    """Download what is missing."""
    names = {model.role: model.name for model in known_models() if model.role}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("role", nargs="?", choices=list(names), help="only this one")
    parser.add_argument("--dir", type=Path, default=MODELS, help="where the files land (default: models/)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show what is wanted and what is there, and stop")
    what.add_argument(
        "--verify", action="store_true", help="check size and sha256 of what is there, and stop"
    )
    options = parser.parse_args()
    # The settings as they are by default: nobody else's names and places count here.
    home = {"HOME": os.environ.get("HOME", "/")}
    command = pull_command(load_settings(None, home, {"models_dir": str(options.dir.absolute())}))
    act = command.show if options.list else command.verify if options.verify else command.pull
    return act([names[options.role]] if options.role else [*names.values()])


if __name__ == "__main__":
    sys.exit(main())
