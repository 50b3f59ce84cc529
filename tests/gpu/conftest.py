from pathlib import Path

import pytest

from tests.gpu.fake_nvml import FakeNvml, compile_fake_nvml, compile_library


@pytest.fixture(scope="session")
def fake_nvml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fake_nvml(tmp_path_factory.mktemp("fake_nvml"))


@pytest.fixture
def fake_nvml(fake_nvml_folder: Path, tmp_path: Path) -> FakeNvml:
    """Two healthy cards until the test orders otherwise."""
    return FakeNvml(fake_nvml_folder, tmp_path / "fake_nvml.txt")


@pytest.fixture(scope="session")
def fake_cuda_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stand-in for the driver's libcuda.so.1."""
    source = Path(__file__).with_name("fake_libcuda.c")
    return compile_library(tmp_path_factory.mktemp("fake_cuda"), source, "libcuda.so.1")
