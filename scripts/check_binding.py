"""Prove that llama-cpp-python decodes on this machine: a batch and a token, in a child process.

Usage: check_binding.py MODEL. What the doctor looks at as well, but here before anything is served.
"""

import sys
from pathlib import Path

from server.doctor.binding import judge_decoding, try_decoding
from server.doctor.check import Status


def main() -> int:
    """Run the child; a crash of it is a text, not a crash."""
    model = Path(sys.argv[1])
    if not model.is_file():
        print(f"There is no {model}; make install fetches it.", file=sys.stderr)
        return 1
    check = judge_decoding(model, "CPU", try_decoding(model, "CPU"))
    if check.status is not Status.OK:
        print(f"llama-cpp-python does not work here: {check.found}\n{check.remedy}", file=sys.stderr)
        return 1
    print("    llama-cpp-python decodes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
