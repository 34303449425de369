# SPDX-License-Identifier: MIT
"""Workers that voxelise and build maps, by fork and spawn, and tensors between processes."""

from __future__ import annotations

import multiprocessing
import os

import clouds
import harness
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

TIMEOUT_S = 120
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Scans(Dataset):
    """Random scans, voxelised, convolved and down-sampled where the item is made."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        coords = clouds.random_points(400, extent=2.0, seed=index)[:, 1:]
        feats = clouds.random_values(400, 4, seed=index, dtype=torch.float32)
        voxels, inverse, counts = tsl.voxelize(tsl.PointTensor(feats, coords), 0.25)
        with torch.no_grad():
            weight = harness.random_weight(3, 4, 4, dtype=torch.float32)
            fine = tsf.conv3d(voxels, weight, kernel_size=3)
            coarse = tsf.max_pool3d(fine, kernel_size=2)
        return {
            "index": index,
            "name": f"scan {index}",
            "voxels": fine,
            "coarse": coarse,
            "points": tsl.PointTensor(feats, coords),
            "sizes": (len(voxels), np.array([counts.sum().item(), len(inverse)])),
            "threads": torch.get_num_threads(),
            "process": os.getpid(),
        }


def load(workers, context=None, batch_size=2):
    loader = DataLoader(
        Scans(),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=tsl.collate_fn,
        multiprocessing_context=context,
        timeout=TIMEOUT_S if workers else 0,
    )
    return list(loader)


def use_many_threads(threads):
    """Enter parallel regions in this process, as a training step does before workers start."""
    threads(4)
    x = harness.sparse(clouds.surface_coords(60), 32, dtype=torch.float32)
    y = tsl.nn.Conv3d(32, 32, 3)(x)
    y.feats.sum().backward()
    torch.ones(400, 400) @ torch.ones(400, 400)


def same(one, two):
    assert one["index"].tolist() == two["index"].tolist()
    assert one["name"] == two["name"]
    for key in ("voxels", "coarse", "points"):
        assert torch.equal(one[key].coords, two[key].coords), key
        assert torch.equal(one[key].feats, two[key].feats), key
        assert one[key].batch_size == two[key].batch_size == 2
    assert one["voxels"].stride == two["voxels"].stride
    assert one["coarse"].stride == two["coarse"].stride == (2, 2, 2)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_bits_of_the_parent(threads, context):
    """After the parent used many threads, workers neither hang nor differ."""
    here = load(0)
    use_many_threads(threads)
    there = load(2, context)
    assert len(here) == len(there) == 3
    for one, two in zip(here, there, strict=True):
        same(one, two)
        assert (two["process"] != os.getpid()).all()
        assert (two["threads"] == 1).all()


def test_workers_start_again_for_a_second_epoch(threads):
    use_many_threads(threads)
    first, second = load(2, "fork"), load(2, "fork")
    for one, two in zip(first, second, strict=True):
        same(one, two)


def test_tensors_from_workers_are_whole():
    """A received tensor convolves, goes down and back up, and matches the parent's own."""
    batch = load(2, "fork")[0]
    x = batch["voxels"]
    weight = harness.random_weight(2, 4, 4, dtype=torch.float32)
    down = tsf.conv3d(x, weight, kernel_size=2, stride=2)
    up = tsf.conv3d(down, weight, kernel_size=2, stride=2, transposed=True)
    assert torch.equal(up.coords, x.coords)
    own = tsl.SparseTensor(x.feats.clone(), x.coords.clone(), batch_size=2)
    again = tsf.conv3d(own, weight, kernel_size=2, stride=2)
    rows = clouds.row_lookup(again.coords, down.coords)
    assert torch.equal(again.feats[rows], down.feats)


def echo(receiver, sender):
    """Child process: convolve what arrives, send it back, stay until it was received."""
    torch.set_num_threads(1)
    x = receiver.recv()
    weight = harness.random_weight(3, x.num_channels, 2, dtype=x.dtype)
    sender.send((tsf.conv3d(x, weight, kernel_size=3), len(x)))
    receiver.recv()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_tensor_through_a_pipe_and_back(context):
    """Plain pickling between processes, with a manager that already holds maps."""
    x = harness.sparse(clouds.signed_coords(60, batch_size=2), 3, spatial_shape=None)
    weight = harness.random_weight(3, 3, 2)
    expected = tsf.conv3d(x, weight, kernel_size=3)
    mp = multiprocessing.get_context(context)
    their_end, our_sender = mp.Pipe(duplex=False)
    our_end, their_sender = mp.Pipe(duplex=False)
    child = mp.Process(target=echo, args=(their_end, their_sender), daemon=True)
    child.start()
    our_sender.send(x)
    assert our_end.poll(TIMEOUT_S), "the child did not answer"
    y, count = our_end.recv()
    our_sender.send("received")
    child.join(TIMEOUT_S)
    assert child.exitcode == 0
    assert count == len(x)
    assert torch.equal(y.coords, expected.coords)
    assert torch.equal(y.feats, expected.feats)


def test_collate_fn_on_every_kind_of_leaf():
    """Dicts, tuples and lists recursively; ragged arrays stay a list, strings stay strings."""

    def sample(n):
        return {
            "tensor": harness.sparse(clouds.signed_coords(n + 3, seed=n), 2),
            "points": tsl.PointTensor(torch.ones(n + 1, 2), torch.ones(n + 1, 3)),
            "pair": (n, [float(n), f"s{n}"]),
            "array": np.full(3, n),
            "ragged": np.zeros(n + 1),
            "dense": torch.full((2,), n),
        }

    batch = tsl.collate_fn([sample(0), sample(1), sample(2)])
    assert batch["tensor"].batch_size == 3
    assert batch["tensor"].coords[:, 0].bincount().tolist() == [3, 4, 5]
    assert batch["points"].batch_size == 3
    assert batch["points"].batch.tolist() == [0, 1, 1, 2, 2, 2]
    assert batch["pair"][0].tolist() == [0, 1, 2]
    assert batch["pair"][1][0].tolist() == [0.0, 1.0, 2.0]
    assert batch["pair"][1][1] == ["s0", "s1", "s2"]
    assert torch.equal(batch["array"], torch.tensor([[0] * 3, [1] * 3, [2] * 3]))
    assert [len(part) for part in batch["ragged"]] == [1, 2, 3]
    assert batch["dense"].shape == (3, 2)


def test_collate_fn_takes_arrays_and_scalars_of_numpy():
    """Read-only and mirrored arrays are copied; every kind of scalar becomes a tensor."""
    fixed = np.arange(3)
    fixed.flags.writeable = False
    sample = {"fixed": fixed, "mirrored": np.arange(3)[::-1], "labels": np.bool_(True)}
    scalars = {kind.__name__: kind(1) for kind in (np.int32, np.uint8, np.float32, np.float64)}
    batch = tsl.collate_fn([sample | scalars] * 2)
    assert batch["fixed"].tolist() == [[0, 1, 2]] * 2
    assert batch["mirrored"].tolist() == [[2, 1, 0]] * 2
    assert batch["labels"].tolist() == [True, True]
    assert batch["labels"].dtype == torch.bool
    for name in scalars:
        assert batch[name].dtype == getattr(torch, name)
    assert len(tsl.sparse_quantize(np.broadcast_to(np.float32(0.5), (4, 3)))) == 1


def test_pin_memory_reaches_every_array(monkeypatch):
    """A DataLoader calls it where there is a GPU; here the copies are only counted."""
    pinned = []

    def pin(tensor):
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    coords = clouds.box_coords((8, 8, 8), 20)
    x = harness.sparse(coords, 2, stride=2, spatial_shape=(8, 8, 8), batch_size=3)
    points = tsl.PointTensor(torch.ones(5, 2), clouds.random_points(5), batch_size=2)
    for tensor in (x, points):
        copied = tensor.pin_memory()
        assert [array.data_ptr() for array in pinned[-2:]] == [
            copied.feats.data_ptr(),
            copied.coords.data_ptr(),
        ]
        assert torch.equal(copied.feats, tensor.feats)
        assert torch.equal(copied.coords, tensor.coords)
        assert copied.batch_size == tensor.batch_size
    copied = x.pin_memory()
    assert (copied.stride, copied.spatial_shape) == (x.stride, x.spatial_shape)
    assert torch.equal(tsf.max_pool3d(copied, 2).feats, tsf.max_pool3d(x, 2).feats)


def test_sparse_collate_keeps_samples_and_renumbers():
    """Batched tensors among the samples keep their inner batch, shifted."""
    one = harness.sparse(clouds.signed_coords(10, batch_size=2), 2, batch_size=2)
    two = harness.sparse(clouds.signed_coords(7, seed=1), 2)
    both = tsl.sparse_collate([one, two, one])
    assert both.batch_size == 5
    assert both.coords[:, 0].bincount(minlength=5).tolist() == [10, 10, 7, 10, 10]
    for batch, part in enumerate([*one.decompose(), two, *one.decompose()]):
        found = both.decompose()[batch]
        rows = clouds.row_lookup(found.coords, part.coords)
        assert torch.equal(found.feats[rows], part.feats)
