# SPDX-License-Identifier: MIT
"""Real files of every kind, through the loaders: counts and histograms are the manifest's.

Files are read from where they are and never copied.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

import numpy as np
import pytest

import torchsparse_lite as tsl
from torchsparse_lite import data, viz

pytestmark = pytest.mark.data

KINDS = {
    "semantickitti": ("semantickitti", {"sequences": ["00", "08"]}, 7),
    "semantickitti_range": ("semantickitti", {"sequences": ["00", "08"]}, 7),
    "ika_vlp32": ("ika_vlp32", {}, 35),
    "nuscenes_range": ("nuscenes_range", {}, 10),
    "rellis3d": ("rellis3d", {}, 2),
    "open_scans/pandaset": ("pandaset", {"has_labels": False}, 2),
    "open_scans/ouster_os1_128": ("ouster", {}, 2),
    "open_scans/ouster_os2_128": ("ouster", {}, 1),
    "airborne/ign_lidarhd": ("ign_lidarhd", {"suffix": ".npz"}, 5),
}


@cache
def manifest(folder):
    return {f["file"]: f for f in json.loads((folder / "manifest.json").read_text())["files"]}


def entry_of(folder, place, name):
    """The manifest's entry of a scan."""
    options = [f"{place}/{name}{end}" for end in (".bin", ".npz", ".laz")]
    if place.startswith("semantickitti"):
        sequence, frame = name.split("/")
        options = [f"{place}/sequences/{sequence}/velodyne/{frame}.bin"]
    return next(manifest(folder)[option] for option in options if option in manifest(folder))


def classes_of(card, raw_histogram, label_map="official"):
    """What the manifest's histogram of ids is after the label map: points of each train id."""
    counts = Counter()
    for raw, count in raw_histogram.items():
        name = card.label_maps[label_map][int(raw)]
        counts[data.IGNORE if name is None else card.classes.index(name)] += count
    return dict(counts)


def histogram(labels):
    ids, counts = np.unique(labels, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("place", KINDS)
def test_points_and_labels_are_the_manifests(data_dir, place):
    name, options, count = KINDS[place]
    opened = data.open_dataset(name, data_dir / place, **options)
    assert len(opened) == count
    for scan in opened:
        entry = entry_of(data_dir, place, scan.name)
        dropped = entry.get("points_at_origin", 0)
        assert len(scan) == entry["points"] - dropped
        if "label_histogram_raw" not in entry:
            assert scan.labels is None
            continue
        wanted = classes_of(opened.card, entry["label_histogram_raw"])
        if dropped:
            wanted[data.IGNORE] -= dropped
        assert histogram(scan.labels) == wanted
        np.testing.assert_allclose(scan.xyz.min(0), entry["xyz_min"], atol=2e-3)
        np.testing.assert_allclose(scan.xyz.max(0), entry["xyz_max"], atol=2e-3)


@pytest.mark.parametrize("place", ["semantickitti", "semantickitti_range"])
def test_the_official_map_of_semantickitti(data_dir, place):
    """The manifest counted learning_map's 0..19 itself; ours are those minus one."""
    opened = data.SemanticKITTI(data_dir / place, sequences=["00", "08"])
    for scan in opened:
        entry = entry_of(data_dir, place, scan.name)
        listed = entry["label_histogram_learning_map_0_19"]
        if isinstance(listed, list):
            listed = dict(enumerate(listed))
        wanted = {(int(k) - 1) % 256: v for k, v in listed.items() if v}
        assert histogram(scan.labels) == wanted
        if "instances_nonzero" in entry:
            assert len(np.unique(scan.instances)) - 1 == entry["instances_nonzero"]


def test_spvnas_ignores_lane_marks(data_dir):
    root = data_dir / "semantickitti"
    official = data.SemanticKITTI(root, files=["00/000000"])[0]
    spvnas = data.SemanticKITTI(root, files=["00/000000"], label_map="spvnas")[0]
    differs = official.labels != spvnas.labels
    assert differs.sum() == 1053  # points of id 60
    assert (spvnas.labels[differs] == data.IGNORE).all()


def test_poses_bring_scans_together(data_dir):
    """In the world, frames 0 and 5 are closer than in their own frames (manifest's README)."""
    scans = data.SemanticKITTI(data_dir / "semantickitti", files=["00/000000", "00/000005"])

    def voxels(scan, *, is_world):
        xyz = scan.xyz.astype(np.float64)
        if is_world:
            xyz = xyz @ scan.pose[:3, :3].T + scan.pose[:3, 3]
        return set(map(tuple, np.floor(xyz / 0.2).astype(int)))

    shared = [
        len(voxels(scans[0], is_world=world) & voxels(scans[1], is_world=world))
        for world in (False, True)
    ]
    assert shared[1] > 1.3 * shared[0]


def test_laz_and_array_of_one_tile_agree(data_dir):
    pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    folder = data_dir / "airborne" / "ign_lidarhd"
    laz = data.AirborneTiles(folder)[0]
    array = data.AirborneTiles(folder, suffix=".npz", files=[laz.name])[0]
    np.testing.assert_array_equal(laz.xyz, array.xyz)
    np.testing.assert_array_equal(laz.labels, array.labels)
    np.testing.assert_array_equal(laz.remission, array.remission)
    np.testing.assert_array_equal(laz.pose, array.pose)


def test_ahn_has_its_own_map(data_dir):
    pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    opened = data.AirborneTiles(data_dir / "airborne" / "ahn3", label_map="ahn")
    entry = manifest(data_dir)["airborne/ahn3/AHN3.laz"]
    wanted = classes_of(opened.card, entry["label_histogram_raw"], "ahn")
    assert histogram(opened[0].labels) == wanted
    with pytest.raises(ValueError, match=r"AHN3.laz .* 26"):
        _ = data.AirborneTiles(data_dir / "airborne" / "ahn3")[0]


def test_a_native_key_frame_of_nuscenes(data_dir, tmp_path):
    """Tables of our own around the real file, which stays where it is."""
    source = data_dir / "nuscenes"
    (tmp_path / "samples").symlink_to(source / "samples")
    path = next((source / "samples" / "LIDAR_TOP").iterdir())
    record = {
        "token": "d",
        "sample_token": "t",
        "timestamp": 0,
        "is_key_frame": True,
        "filename": path.relative_to(source).as_posix(),
    }
    tables = {
        "scene": [{"token": "s", "name": "scene-0001"}],
        "sample": [{"token": "t", "scene_token": "s"}],
        "sample_data": [record],
    }
    (tmp_path / "v1.0-mini").mkdir()
    for name, table in tables.items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(table))
    scan = data.NuScenesLidarseg(tmp_path, scenes=["scene-0001"])[0]
    assert len(scan) == 34_688
    assert scan.labels is None


def test_voxel_counts_through_the_whole_pipeline(data_dir):
    """Loader, sample and voxelisation: the manifest's count of float32 voxels at 0.05 m."""
    opened = data.SemanticKITTI(data_dir / "semantickitti", files=["08/000000"])
    points = data.SegmentationSamples(opened)[0]["points"]
    entry = entry_of(data_dir, "semantickitti", "08/000000")
    voxels = tsl.voxelize(points, 0.05).voxels
    assert len(voxels) == entry["voxels"]["0.05"]["floor_float32"]


def test_mixing_real_scans(data_dir):
    scans = data.SemanticKITTI(data_dir / "semantickitti", files=["00/000000", "08/000000"])
    things, ground = scans.card.groups["things"], scans.card.groups["ground"]
    rng = np.random.default_rng(0)
    for mix in (
        data.LaserMix(),
        data.PolarMix(things),
        data.InstancePaste(things, ground),
    ):
        mixed = mix(scans[0], scans[1], rng)
        assert len(mixed) > 100_000
        assert mixed.labels.shape == (len(mixed),)


@pytest.mark.parametrize("place", ["semantickitti", "airborne/ign_lidarhd"])
def test_pictures_of_real_scans(data_dir, tmp_path, place):
    pytest.importorskip("matplotlib")
    name, options, _ = KINDS[place]
    opened = data.open_dataset(name, data_dir / place, **options)
    path = viz.draw_scan(opened[0], opened.card, tmp_path / "scan.png")
    assert path.stat().st_size > 20_000
