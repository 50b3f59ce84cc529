"""Download the two real models from Hugging Face into models/ (about 5.8 GB).

A file that is there already is left alone. A connection that breaks is taken up again where it stopped, a few
times; after that, or stopped by hand, the file starts from its beginning at the next run. HF_ENDPOINT names a
mirror, HF_TOKEN an account.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

MODELS = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class Download:
    """One file of one repository, and the name it gets here."""

    role: str
    repository: str
    filename: str
    saved_as: str
    size_bytes: int

    def size(self) -> str:
        """The size for people."""
        return f"{self.size_bytes / 1e9:.1f} GB"


DOWNLOADS = (
    Download(
        "generator",
        "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF",
        "qwen2.5-coder-7b-instruct-q4_k_m.gguf",
        "qwen2.5-coder-7b-instruct-q4_k_m.gguf",
        4_683_073_536,
    ),
    Download(
        "helper",
        "unsloth/Qwen3-1.7B-GGUF",
        "Qwen3-1.7B-Q4_K_M.gguf",
        "qwen3-1.7b-q4_k_m.gguf",
        1_107_409_472,
    ),
)


def show(folder: Path) -> None:
    """Print what would be downloaded, and what is there."""
    for item in DOWNLOADS:
        state = "present" if (folder / item.saved_as).is_file() else "missing"
        print(f"{item.role:<10} {state:<8} about {item.size()}  {folder / item.saved_as}")
        print(f"{'':<10} from {item.repository}, file {item.filename}")


def fetch(item: Download, folder: Path) -> None:
    """Download one file under its own name; it gets its final name only when it is complete."""
    target = folder / item.saved_as
    if target.is_file():
        print(f"{item.role}: {target} is there already")
        return
    print(f"{item.role}: {item.filename} from {item.repository} (about {item.size()})", flush=True)
    path = hf_hub_download(item.repository, item.filename, local_dir=folder)
    Path(path).replace(target)
    print(f"{item.role}: {target} is there now")


def reason(error: Exception) -> str:
    """What went wrong and what to do, in place of a traceback."""
    if isinstance(error, LocalEntryNotFoundError):  # also an EntryNotFoundError, but it means: no connection
        return (
            f"the hub cannot be reached ({error.__cause__ or error}).\n"
            "Check the network, HTTPS_PROXY and HF_HUB_OFFLINE, or name a mirror with HF_ENDPOINT;\n"
            "or bring the files that --list shows from another machine and put them there by hand."
        )
    if isinstance(error, RepositoryNotFoundError | EntryNotFoundError):
        return f"the hub does not have that file, or not for this HF_TOKEN: {error}"
    if isinstance(error, OSError):  # a full disk, a folder that cannot be written
        return str(error)
    return f"{type(error).__name__}: {error}"


def main() -> int:
    """Download what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=[item.role for item in DOWNLOADS], help="only this one")
    parser.add_argument("--dir", type=Path, default=MODELS, help="where the files land (default: models/)")
    parser.add_argument("--list", action="store_true", help="show what is wanted and what is there, and stop")
    options = parser.parse_args()
    if options.list:
        show(options.dir)
        return 0
    for item in DOWNLOADS:
        if options.role not in (None, item.role):
            continue
        try:
            options.dir.mkdir(parents=True, exist_ok=True)
            fetch(item, options.dir)
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            return 130
        except Exception as error:  # noqa: BLE001  # the hub client's HTTP library has exceptions of its own
            print(f"{item.role}: {item.filename} was not downloaded: {reason(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
