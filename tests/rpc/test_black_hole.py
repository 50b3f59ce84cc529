"""A machine that falls silent, as by a pulled cable: in a network of our own that loses its packets."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server.engine.rpc import SILENCE_S
from tests.rpc.test_service import LITTLE
from tests.running import PROJECT, embedded_config

FAR = "10.9.9.2"
SCRIPT = """
import subprocess, sys, time
from pathlib import Path
from tests.running import RunningServer
from tests.rpc.test_service import Answer
for command in ("ip link set lo up", "ip addr add {far}/32 dev lo"):
    subprocess.run(command.split(), check=True)
host = subprocess.Popen([sys.executable, "-m", "tests.rpc.host", "{far}:50052"], stdout=subprocess.DEVNULL)
time.sleep(3)
service = RunningServer(Path(sys.argv[1]))
try:
    answer = Answer(service) if sys.argv[2] == "busy" else None
    for command in ("ip addr del {far}/32 dev lo", "ip route add blackhole {far}/32"):
        subprocess.run(command.split(), check=True)
    cut_s = time.monotonic()
    print("status", service.end())
    print("seconds", time.monotonic() - cut_s)
    print(service.log[-1])
    if answer is not None:
        answer.end()
finally:
    service.kill()
    host.kill()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["busy", "idle"])
def test_the_kernel_gives_up_and_the_service_says_so(embedded_model: Path, tmp_path: Path, how: str) -> None:
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or shutil.which("ip") is None
        or subprocess.run([unshare, "-n", "true"], check=False).returncode
    ):
        pytest.skip("needs unshare -n and ip, as root")
    config = tmp_path / "config.toml"
    small = {**LITTLE, "path": str(embedded_model)}
    text = embedded_config(embedded_model, generator=LITTLE, helper=small)
    config.write_text(text.replace('device = "cpu"\n', f'devices = ["cpu", "rpc://{FAR}:50052"]\n', 1))
    command = [unshare, "-n", sys.executable, "-c", SCRIPT.format(far=FAR), str(config), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT, timeout=200)
    status, seconds, last = done.stdout.strip().splitlines()
    assert status == "status 69"
    assert SILENCE_S - 5 < float(seconds.split()[1]) < SILENCE_S + 20
    assert f"rpc://{FAR}:50052 is lost: " in last
