"""Download the two real models from Hugging Face into models/ (about 5.8 GB).

Which files these are stands in models/catalogue.toml. A file that is there already is left alone. A download
that broke off, or was stopped by hand, goes on where it stopped at the next run; a file gets its name only
when it is whole and its sha256 is right. HF_ENDPOINT names a mirror, HF_TOKEN an account.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from server.catalogue.download import download as bring
from server.catalogue.hub import Source, find_file
from server.catalogue.known import Known, known_models
from server.domain.errors import ServiceError

MODELS = Path(__file__).resolve().parent.parent / "models"
STEP = 0.05
"""The part of a file after which its download is told of again."""


def target_of(item: Known, folder: Path) -> Path:
    """The file that it becomes here."""
    return folder / (item.saved_as or f"{item.model_name.file_stem}.gguf")


def size_of(item: Known) -> str:
    """The size for people."""
    return f"about {item.size_bytes / 1e9:.1f} GB" if item.size_bytes else "of a size that the hub knows"


def show(items: list[Known], folder: Path) -> None:
    """Print what would be downloaded, and what is there."""
    for item in items:
        target = target_of(item, folder)
        state = "present" if target.is_file() else "missing"
        print(f"{item.role:<10} {state:<8} {size_of(item)}  {target}")
        print(f"{'':<10} from {item.repository}, file {item.file}")


def download(item: Known, folder: Path) -> None:
    """Download one file, unless it is there."""
    target = target_of(item, folder)
    if target.is_file():
        print(f"{item.role}: {target} is there already")
        return
    print(f"{item.role}: {item.file} from {item.repository} ({size_of(item)})", flush=True)
    file = find_file(Source(item.repository, item.file, item.quant, item.sha256))
    bring(file, target, teller(file.size_bytes), lambda done_bytes: None)
    print(f"{item.role}: {target} is there now")


def teller(size_bytes: int) -> Callable[[int], None]:
    """What prints a line for every twentieth of a download."""
    told = -1.0

    def tell(here_bytes: int) -> None:
        nonlocal told
        part = here_bytes / max(size_bytes, 1)
        if part - told >= STEP or part == 1:
            told = part
            print(f"  {here_bytes / 1e9:.2f} of {size_bytes / 1e9:.2f} GB", flush=True)

    return tell


def main() -> int:
    """Download what is missing."""
    items = [item for item in known_models() if item.role]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=[item.role for item in items], help="only this one")
    parser.add_argument("--dir", type=Path, default=MODELS, help="where the files land (default: models/)")
    parser.add_argument("--list", action="store_true", help="show what is wanted and what is there, and stop")
    options = parser.parse_args()
    if options.list:
        show(items, options.dir)
        return 0
    for item in items:
        if options.role not in (None, item.role):
            continue
        try:
            download(item, options.dir)
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            return 130
        except (ServiceError, OSError) as error:
            print(f"{item.role}: {item.file} was not downloaded: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
