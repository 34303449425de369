# SPDX-License-Identifier: MIT
"""Real clouds: voxel counts, pyramids and pair counts that others computed for the manifest.

The manifest's ``voxel_counts`` text is the protocol: points at the exact origin are left out,
levels and pairs belong to the float64 voxels minus their minimum over the cloud. Files are read
from where they are and never copied.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import clouds
import numpy as np
import pytest
import torch

import torchsparse_lite as tsl

pytestmark = pytest.mark.data

LEVELS = "levels_stride_1_2_4_8_16_float64"
PAIRS = "submanifold_3x3x3_pairs_per_level_float64"
DOWN = tsl.ConvGeometry(kernel_size=2, stride=2)
SAME = tsl.ConvGeometry.same(kernel_size=3, dilation=1)
PYRAMIDS = [
    *(f"semantickitti/sequences/00/velodyne/00000{i}.bin" for i in range(6)),
    "semantickitti/sequences/08/velodyne/000000.bin",
    "nuscenes/samples/LIDAR_TOP/n015-2018-07-24-11-22-45+0800__LIDAR_TOP__1532402927647951.pcd.bin",
    "av2/7fab2350-7eaf-3b7e-a39d-6937a4c1bede/315966265259836000.npz",
    "av2/7fab2350-7eaf-3b7e-a39d-6937a4c1bede/315966265360032000.npz",
    "open_scans/ouster_os1_128/000000.bin",
    "open_scans/ouster_os1_128/000002.bin",
    "open_scans/ouster_os2_128/000000.bin",
    "open_scans/pandaset/000001.bin",
    "open_scans/pandaset/000003.bin",
    "voxels/spconv_benchmark_pc.npz",
]


@cache
def manifest(folder: Path) -> dict[str, dict]:
    """Entries of the manifest by file name."""
    text = (folder / "manifest.json").read_text()
    return {entry["file"]: entry for entry in json.loads(text)["files"]}


def read_xyz(path: Path) -> torch.Tensor | None:
    """(n, 3) float32 without the points at the exact origin; None for a compressed LAZ file."""
    if path.name.endswith(".pcd.bin"):
        xyz = np.fromfile(path, "<f4").reshape(-1, 5)
    elif path.suffix == ".bin":
        xyz = np.fromfile(path, "<f4").reshape(-1, 4)
    elif path.suffix == ".npy":
        image = np.load(path)
        xyz = image[image[..., 4] > 0]
    elif path.suffix == ".npz":
        arrays = np.load(path)
        xyz = arrays[next(name for name in ("xyz", "pc", "voxels") if name in arrays)]
    else:
        return None
    xyz = xyz[:, :3].astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(xyz[(xyz != 0).any(1)]))


def voxel_coords(xyz: torch.Tensor, size: float, precision: torch.dtype) -> torch.Tensor:
    points = tsl.PointTensor(torch.ones(len(xyz), 1), xyz.to(precision))
    voxels, index, counts = tsl.voxelize(points, size, precision=precision)
    assert len(index) == len(xyz) == counts.sum()
    return voxels.coords


def rebased(coords: torch.Tensor) -> torch.Tensor:
    """Minus the minimum over the cloud, which decides how cells group into the next level."""
    shift = coords.amin(0)
    shift[0] = 0
    return coords - shift


def ordered(coords: torch.Tensor, order: str) -> tsl.SparseTensor:
    """The sites in Morton order, or shuffled so that only the hash path applies."""
    if order == "morton":
        coords = coords[clouds.morton_order(coords)]
    else:
        coords = coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))]
    tensor = tsl.SparseTensor(torch.ones(len(coords), 1), coords)
    assert tensor.level.is_morton == (order == "morton")
    return tensor


def test_every_listed_pyramid_is_tested(data_dir):
    listed = {name for name, e in manifest(data_dir).items() if LEVELS in json.dumps(e["voxels"])}
    assert listed == set(PYRAMIDS)


def test_voxel_counts_of_every_cloud(data_dir):
    """All readable files at every listed size, in both precisions, agree with the manifest."""
    checked, wrong = 0, []
    for name, entry in manifest(data_dir).items():
        xyz = read_xyz(data_dir / name)
        if xyz is None:
            continue
        for size, counts in entry["voxels"].items():
            for precision in (torch.float32, torch.float64):
                listed = counts[f"floor_{str(precision).removeprefix('torch.')}"]
                found = len(voxel_coords(xyz, float(size), precision))
                checked += 1
                if found != listed:
                    wrong.append((name, size, precision, found, listed))
    assert checked > 150
    assert wrong == []


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("order", ["morton", "shuffled"])
def test_levels_and_pairs(data_dir, name, order):
    """Five levels by k2 s2 sites; 3x3x3 pairs by octree descent and by hashing."""
    for size, counts in manifest(data_dir)[name]["voxels"].items():
        coords = voxel_coords(read_xyz(data_dir / name), float(size), torch.float64)
        sizes, pairs = [], []
        coords = rebased(coords)
        for _ in counts[LEVELS]:
            x = ordered(coords, order)
            sizes.append(len(x))
            pairs.append(x.manager.submanifold(x.level, SAME).num_pairs)
            below = x.manager.strided(x.level, DOWN, rule="full")
            assert x.manager.kernel_map(x.level, below, DOWN).num_pairs == len(x)
            coords = below.coords
        assert sizes == counts[LEVELS]
        assert pairs == counts[PAIRS]


@pytest.mark.parametrize("name", PYRAMIDS[:1] + PYRAMIDS[-1:])
def test_one_manager_serves_the_whole_pyramid(data_dir, name):
    """All five levels from one tensor, as a network makes them: the same counts."""
    counts = manifest(data_dir)[name]["voxels"]["0.05"]
    coords = voxel_coords(read_xyz(data_dir / name), 0.05, torch.float64)
    x = ordered(rebased(coords), "morton")
    level = x.level
    for listed, pairs in zip(counts[LEVELS], counts[PAIRS], strict=True):
        assert len(level) == listed
        assert level.is_morton
        assert x.manager.submanifold(level, SAME).num_pairs == pairs
        level = x.manager.strided(level, DOWN, rule="full")


def test_both_paths_give_the_same_map(data_dir):
    """Pair by pair on a whole scan: tap, input site and output site."""
    coords = voxel_coords(read_xyz(data_dir / PYRAMIDS[0]), 0.1, torch.float32)
    found = []
    for order in ("morton", "shuffled"):
        x = ordered(coords, order)
        kernel_map = x.manager.submanifold(x.level, SAME)
        sizes = kernel_map.tap_ptr.diff()
        tap = torch.repeat_interleave(torch.arange(27), sizes)
        home = clouds.morton_order(x.coords).argsort()
        pairs = torch.stack([tap, home[kernel_map.in_index], home[kernel_map.out_index]], 1)
        found.append(pairs[np.lexsort(pairs.T.flip(0).numpy())])
    assert torch.equal(*found)


def test_the_voxels_of_spconv_coordinate_for_coordinate(data_dir):
    """An outside reference: 125,562 float32 voxels and the first point of each, in file order."""
    folder = data_dir / "voxels"
    cloud = torch.from_numpy(np.load(folder / "spconv_benchmark_pc.npz")["pc"])
    listed = np.load(folder / "spconv_test_voxels.npz")
    sites = torch.from_numpy(listed["coors_bzyx"][:, [0, 3, 2, 1]].astype(np.int32))
    voxels, index, counts = tsl.voxelize(
        tsl.PointTensor(cloud, cloud), 0.1, reduce="first", origin=(-80, -80, -2)
    )
    assert len(voxels) == len(sites) == 125_562
    rows = clouds.row_lookup(voxels.coords, sites)
    assert len(rows.unique()) == len(sites)
    assert torch.equal(voxels.feats[rows], torch.from_numpy(listed["voxels"]))
    assert counts.sum() == len(cloud)
    first = torch.full((len(voxels),), len(cloud)).scatter_reduce(
        0, index, torch.arange(len(cloud)), "amin"
    )
    in_file_order = first.argsort()
    assert torch.equal(rows, in_file_order)


def test_float64_of_the_same_cloud_differs_by_three(data_dir):
    """The precision is honoured: the same call in float64 gives 125,565 voxels."""
    cloud = torch.from_numpy(np.load(data_dir / "voxels/spconv_benchmark_pc.npz")["pc"])
    points = tsl.PointTensor(cloud, cloud)
    options = {"origin": (-80, -80, -2), "precision": torch.float64}
    assert len(tsl.voxelize(points, 0.1, **options).voxels) == 125_565


def test_a_scan_survives_the_round_trip(data_dir):
    """Every point of a scan finds its own voxel again, and a mean of xyz stays inside it."""
    xyz = read_xyz(data_dir / PYRAMIDS[0])
    points = tsl.PointTensor(xyz, xyz)
    voxels, index, counts = tsl.voxelize(points, 0.1)
    assert torch.equal(tsl.devoxelize(voxels, points, 0.1, mode="nearest"), voxels.feats[index])
    assert int(counts.min()) >= 1
    cells = voxels.coords[:, 1:].float()
    assert ((voxels.feats / 0.1 - cells) > -1e-2).all()
    assert ((voxels.feats / 0.1 - cells) < 1 + 1e-2).all()
