"""Prove that llama-cpp-python decodes on this machine: a batch and a token, in a child process.

Usage: check_binding.py MODEL. A build that uses instructions this CPU does not have, or a virtual machine
does not let it use, kills the process at the first decode; better here, with a remedy, than at the first
request.
"""

import signal
import subprocess
import sys
from pathlib import Path

CHILD = """
import sys
from llama_cpp import Llama
model = Llama(model_path=sys.argv[1], n_ctx=256, n_batch=128, n_threads=2, n_gpu_layers=0, verbose=False)
model.eval(model.tokenize(b"Hello " * 100)[:100])  # a batch takes other code paths than a single token
model.eval([model.sample(temp=0.0)])
print(model.detokenize([model.sample(temp=0.0)]))
"""
CHILD_TIMEOUT_S = 300
REMEDIES = {
    signal.SIGILL: """\
This CPU lacks an instruction that the build uses. Build it without the newer ones (slower, but it runs):
    CMAKE_ARGS="-DGGML_AVX2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF -DGGML_BMI2=OFF" make install""",
    signal.SIGSEGV: """\
Known cause: a build with GGML_NATIVE=ON on a virtual machine that announces AMX but does not let it be used.
Build it anew with the flags of this project alone:
    CMAKE_ARGS="" make rebuild-binding""",
}
OTHER_REMEDY = """\
Build it anew with the flags of this project alone:
    CMAKE_ARGS="" make rebuild-binding"""


def explain(status: int, stderr: str) -> str:
    """What happened to the child, and what to do about it."""
    if status < 0:
        died = signal.Signals(-status)
        what = f"llama-cpp-python crashes on this machine: {died.name} while decoding."
        return f"{what}\n{REMEDIES.get(died, OTHER_REMEDY)}"
    return f"llama-cpp-python does not work here:\n{stderr.strip()}\n{OTHER_REMEDY}"


def main() -> int:
    """Run the child; a crash of it is a text, not a crash."""
    model = Path(sys.argv[1])
    if not model.is_file():
        print(f"There is no {model}; make install fetches it.", file=sys.stderr)
        return 1
    command = [sys.executable, "-X", "faulthandler", "-c", CHILD, str(model)]
    try:
        child = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"A few tokens were not decoded within {CHILD_TIMEOUT_S} s.\n{OTHER_REMEDY}", file=sys.stderr)
        return 1
    if child.returncode:
        print(explain(child.returncode, child.stderr), file=sys.stderr)
        return 1
    print("    llama-cpp-python decodes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
