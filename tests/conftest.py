# SPDX-License-Identifier: MIT
"""Fixtures and profiles shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("deterministic")

MARKERS = {
    "cuda": "needs a CUDA device",
    "slow": "takes more than a few seconds or a few hundred megabytes",
    "data": "reads real point clouds from TSL_DATA or ../shared/data",
    "compile": "runs torch.compile or opcheck",
}


def pytest_configure(config):
    """Name the markers for --strict-markers from anywhere; one thread per xdist worker."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the workers already fill the processor


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ]
)
def device(request) -> torch.device:
    """CPU always, CUDA where there is one."""
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
