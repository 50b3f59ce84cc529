"""The real server aborts while it loads a model, and is started again."""

from contextlib import AbstractContextManager
from pathlib import Path

from tests.gpu.fake_nvml import FakeNvml
from tests.running import RunningServer, embedded_config, serving

ABORTED = -6


def start(
    folder: Path, model: Path, fake: FakeNvml, *, waits: bool = True
) -> AbstractContextManager[RunningServer]:
    generator = {"device": "cuda:0", "memory_margin_mib": 50, "batch": 128, "threads": 1}
    config = embedded_config(model, generator=generator, helper={"path": str(model), "preload": False})
    return serving(folder, config, fake.environment(), module="tests.gpu.fake_cuda", waits=waits)


def test_the_next_start_does_with_less(embedded_model: Path, tmp_path: Path, fake_nvml: FakeNvml) -> None:
    # NVML tells of more memory than there is: the plan fits, and the card ends the process all the same.
    fake_nvml.order("holds 0 250")
    with start(tmp_path, embedded_model, fake_nvml, waits=False) as first:
        assert first.end() == ABORTED

    with start(tmp_path, embedded_model, fake_nvml) as second, second.client() as client:
        words = "the service ended while it loaded smollm2:135m on cuda:0 with "
        assert len(second.logged(f"WARNING {words}")) == 1
        assert len(second.logged(f"is loaded with less: generator.kv_type f16 → q8_0: {words}")) == 1
        (loaded,) = client.get("/api/ps").json()["models"]
        assert [one["setting"] for one in loaded["reduced"]["settings"]] == ["generator.kv_type"]
        (fault,) = client.get("/health/gpu").json()["recent_faults"]
        assert (fault["where"], fault["text"][: len(words)]) == ("service", words)
        body = {"model": "smollm2:135m", "prompt": "1, 2,", "stream": False, "options": {"num_predict": 2}}
        assert client.post("/api/generate", json=body).json()["done"]
