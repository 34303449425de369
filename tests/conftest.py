# SPDX-License-Identifier: MIT
"""Fixtures and profiles shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from torchsparse_lite._native import has_cuda

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("deterministic")
# What torch asks for before its matrix products on a GPU may be called deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def why_no_cuda() -> str | None:
    """Why nothing can run on a GPU here; None if it can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    return None if has_cuda() else "built without its CUDA part"


WHY_NO_CUDA = why_no_cuda()
NEEDS_CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(WHY_NO_CUDA is not None, reason=str(WHY_NO_CUDA)),
]


def pytest_configure(config):
    """One thread per xdist worker."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the workers already fill the processor


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def device(request) -> torch.device:
    """CPU always, CUDA where there is one and this build has its CUDA part."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real clouds; the test is skipped with a clear word when it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TSL_DATA", default))
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no real clouds at {folder}: set TSL_DATA to a folder with manifest.json")
    return folder


@pytest.fixture
def threads():
    """A setter of torch's thread count that puts the old count back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
