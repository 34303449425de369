# SPDX-License-Identifier: MIT
"""DataLoader workers: the same batches for any number of them, forked or spawned."""

from __future__ import annotations

import pytest
import tiny_sets
import torch
from torch.utils.data import DataLoader

import torchsparse_lite as tsl
from torchsparse_lite import data

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker:UserWarning"),
]
TIMEOUT_S = 120


@pytest.fixture
def samples(tmp_path):
    tiny_sets.semantickitti(tmp_path)
    scans = data.SemanticKITTI(tmp_path, sequences=["00", "08"])
    transforms = [data.RotateZ(), data.Scale(), data.Flip(), data.Jitter(), data.DropPoints(0.2)]
    return data.SegmentationSamples(
        scans, transforms, seed=3, mix=[data.LaserMix(), data.PolarMix([0, 4, 6])]
    )


def loader_of(samples, workers, context=None):
    return DataLoader(
        samples,
        batch_size=2,
        num_workers=workers,
        collate_fn=tsl.collate_fn,
        multiprocessing_context=context,
        persistent_workers=workers > 0,
        timeout=TIMEOUT_S if workers else 0,
    )


def two_epochs(samples, workers, context=None):
    loader = loader_of(samples, workers, context)
    epochs = []
    for epoch in range(2):
        samples.set_epoch(epoch)
        epochs.append(list(loader))
    return epochs


def same(one, two):
    assert one["name"] == two["name"]
    assert torch.equal(one["points"].coords, two["points"].coords)
    assert torch.equal(one["points"].feats, two["points"].feats)
    assert torch.equal(data.labels_of(one), data.labels_of(two))
    assert one["points"].batch_size == two["points"].batch_size


@pytest.mark.parametrize(
    ("workers", "context"), [(1, "fork"), (3, "fork"), (1, "spawn"), (3, "spawn")]
)
def test_workers_do_not_change_a_bit(samples, workers, context):
    """Over two epochs with persistent workers, which learn of the second epoch too."""
    here = two_epochs(samples, 0)
    there = two_epochs(samples, workers, context)
    assert [len(epoch) for epoch in here] == [3, 3]
    for one, two in zip(here, there, strict=True):
        for a, b in zip(one, two, strict=True):
            same(a, b)
    assert not torch.equal(here[0][0]["points"].feats, here[1][0]["points"].feats)


def test_errors_come_out_of_workers_with_file_and_remedy(samples):
    path = samples.dataset.root / "sequences" / "00" / "velodyne" / "000001.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"000001.bin must be a multiple .* truncated"):
        list(loader_of(samples, 1, "fork"))
