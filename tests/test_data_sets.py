# SPDX-License-Identifier: MIT
"""What every data set must do, over the table of data sets, on tiny sets in each layout."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_sets

import torchsparse_lite as tsl
from torchsparse_lite import data

NAMES = sorted(data.DATASETS)
LABELLED = [name for name in NAMES if name != "ouster"]


@pytest.fixture
def tiny(tmp_path):
    """Builds the tiny set of a name once, and opens it with changed options."""
    made = {}

    def build(name, **options):
        if name not in made:
            folder = tmp_path / name
            folder.mkdir()
            made[name] = tiny_sets.BUILDERS[name](folder)
        opened = data.open_dataset(name, made[name].root, **{**made[name].options, **options})
        return made[name], opened

    return build


def test_every_data_set_has_a_tiny_one():
    assert set(tiny_sets.BUILDERS) == set(data.DATASETS)
    assert {kind.card for kind in data.DATASETS.values()} == set(data.card_names())


@pytest.mark.parametrize("name", NAMES)
def test_scans_come_in_a_fixed_order(tiny, name):
    written, opened = tiny(name)
    assert opened.names == list(written.raw)
    assert [scan.name for scan in opened] == opened.names
    assert len(opened) == len(opened.names) == len(set(opened.names))
    assert opened[-1].name == opened.names[-1]
    assert repr(opened).startswith(type(opened).__name__)


@pytest.mark.parametrize("name", NAMES)
def test_coordinates_are_those_written(tiny, name):
    written, opened = tiny(name)
    for scan in opened:
        np.testing.assert_array_equal(scan.xyz, written.xyz[scan.name])
        assert scan.remission.min() >= 0
        assert scan.remission.max() <= 1


@pytest.mark.parametrize("name", LABELLED)
def test_labels_go_through_the_map_and_back(tiny, name):
    written, opened = tiny(name)
    card = opened.card
    ids = card.label_maps["official"]
    for scan in opened:
        wanted = [ids[raw] for raw in written.raw[scan.name].tolist()]
        found = [None if n == data.IGNORE else card.classes[n] for n in scan.labels]
        assert found == wanted
        again = card.to_train(card.to_raw(scan.labels))
        is_class = scan.labels != data.IGNORE
        np.testing.assert_array_equal(again[is_class], scan.labels[is_class])


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_in_another_process_reads_the_same(tiny, name):
    _, opened = tiny(name)
    copy = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(copy[1].xyz, opened[1].xyz)


@pytest.mark.parametrize("name", NAMES)
def test_samples_collate(tiny, name):
    _, opened = tiny(name)
    samples = data.SegmentationSamples(opened, [data.RotateZ(), data.Scale()])
    batch = tsl.collate_fn([samples[0], samples[1]])
    points = batch["points"]
    assert points.batch_size == 2
    assert points.num_channels == 4
    assert len(data.labels_of(batch)) == len(points)
    assert batch["name"] == opened.names[:2]


@pytest.mark.parametrize("name", NAMES)
def test_an_iteration_over_samples_ends(tiny, name):
    _, opened = tiny(name)
    assert len(list(data.SegmentationSamples(opened))) == len(opened)


def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
    """On a tiny set in the layout of SemanticKITTI, all training sequences there."""
    tiny_sets.semantickitti(tmp_path)
    folder = tmp_path / "sequences"
    for sequence in data.load_card("semantickitti").splits["train"][1:]:
        shutil.copytree(folder / "00", folder / sequence)
    text = (Path(__file__).parents[1] / "datasets" / "README.md").read_text()
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block.replace("/data/SemanticKITTI", str(tmp_path)), names)
    assert len(names["labels"]) == len(names["batch"]["points"])
    assert (tmp_path / "scan.png").is_file()


# ---- what single layouts do beyond that


def test_semantickitti_instances_and_poses(tiny):
    _, opened = tiny("semantickitti")
    scan = opened[2]
    np.testing.assert_array_equal(scan.instances, np.arange(len(scan)) % 3)
    # The camera moved 2 m along its z, which is the LiDAR's x.
    expected = np.eye(4)
    expected[0, 3] = 2.0
    np.testing.assert_allclose(scan.pose, expected, atol=1e-12)


def test_one_scan_by_its_files(tiny, tmp_path):
    """What a viewer reads: a scan, its labels and a prediction written in the same format."""
    written, opened = tiny("semantickitti")
    scan = data.read_scan_file(written.scan_file, opened.card, written.label_file)
    np.testing.assert_array_equal(scan.xyz, opened[0].xyz)
    np.testing.assert_array_equal(scan.labels, opened[0].labels)
    assert scan.name == "000000"
    prediction = np.arange(len(scan)) % 19
    path = data.write_prediction_file(tmp_path / "new" / "000000.label", prediction, opened.card)
    again, instances = data.read_label_file(path, opened.card, len(scan))
    np.testing.assert_array_equal(again, prediction)
    assert not instances.any()


def test_semantickitti_two_label_maps(tiny):
    written, official = tiny("semantickitti")
    _, spvnas = tiny("semantickitti", label_map="spvnas")
    for scan, other in zip(official, spvnas, strict=True):
        raw = written.raw[scan.name]
        is_left_out = np.isin(raw, [13, 16, 60, 256, 257])
        assert (other.labels[is_left_out] == data.IGNORE).all()
        assert (scan.labels[is_left_out] != data.IGNORE).all()
        np.testing.assert_array_equal(other.labels[~is_left_out], scan.labels[~is_left_out])


def test_semantickitti_chooses_files_and_splits(tiny):
    written, _ = tiny("semantickitti")
    picked = data.SemanticKITTI(written.root, files=["08/000001", "00/000002"])
    assert picked.names == ["08/000001", "00/000002"]
    assert data.SemanticKITTI(written.root, "val").names == ["08/000000", "08/000001"]
    partial = data.SemanticKITTI(written.root, "train", allow_missing=True)
    assert {name.split("/")[0] for name in partial.names} == {"00"}


def test_semantickitti_test_sequences_have_no_labels(tiny):
    written, _ = tiny("semantickitti")
    folder = written.root / "sequences"
    (folder / "08").rename(folder / "11")
    for path in (folder / "11" / "labels").iterdir():
        path.unlink()
    scan = data.SemanticKITTI(written.root, "test", allow_missing=True)[0]
    assert scan.labels is None
    assert scan.instances is None
    (folder / "11" / "poses.txt").unlink()
    assert data.SemanticKITTI(written.root, sequences=["11"])[0].pose is None
    sample = data.SegmentationSamples(data.SemanticKITTI(written.root, sequences=["11"]))[0]
    assert (sample["labels"] == data.IGNORE).all()


def test_nuscenes_splits_scenes_and_poses(tiny):
    _, opened = tiny("nuscenes_lidarseg")
    # Mounted 1 m ahead and 2 m up, turned by 90 degrees; the vehicle is at (10, 20, 0).
    expected = np.array([[0, -1, 0, 11], [1, 0, 0, 20], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(opened[0].pose, expected, atol=1e-12)
    root = opened.root
    picked = data.NuScenesLidarseg(root, scenes=["scene-0061"])
    assert picked.names == ["t3"]
    assert picked[0].pose is None
    assert data.NuScenesLidarseg(root, scenes=["scene-0061"], has_labels=False)[0].labels is None


def test_nuscenes_predictions_are_the_challenges(tiny, tmp_path):
    """uint8 from 1 to 16, one file per key frame of the LiDAR, named by its token."""
    _, opened = tiny("nuscenes_lidarseg")
    name = opened.names[0]
    labels = np.arange(len(opened[0])) % 16
    labels[3] = data.IGNORE
    path = opened.write_prediction(tmp_path / "out", name, labels)
    assert path.parent == tmp_path / "out" / "lidarseg" / "mini_val"
    assert path.name == f"d{name[1:]}_lidarseg.bin"
    expected = bytes(0 if n == 3 else n % 16 + 1 for n in range(len(labels)))
    assert path.read_bytes() == expected
    again = data.read_prediction_file(path, opened.card, len(labels))
    np.testing.assert_array_equal(again, labels)
    with pytest.raises(ValueError, match=r"train ids of card nuscenes_lidarseg must be in \[0, 16"):
        opened.write_prediction(tmp_path, name, np.array([16]))


def test_nuscenes_train_is_what_val_is_not():
    splits = data.load_card("nuscenes_lidarseg").splits
    assert len(splits["val"]["scenes"]) == 150
    assert splits["train"]["without"] == "val"
    assert len(splits["mini_train"]["scenes"]) == 8


def test_rellis_drops_what_did_not_return(tiny):
    written, _ = tiny("rellis3d")
    rows = np.fromfile(written.scan_file, np.float32).reshape(-1, 4)
    rows[3:9] = 0
    rows.tofile(written.scan_file)
    _, opened = tiny("rellis3d")
    scan = opened[0]
    assert len(scan) == len(rows) - 6
    kept = np.delete(written.raw[scan.name], np.arange(3, 9))
    np.testing.assert_array_equal(scan.labels, opened.card.to_train(kept))


def test_plain_folders_without_a_split_hold_all_scans(tiny):
    written, _ = tiny("ika_vlp32")
    every = data.ScanFolder(written.root, card="ika_11")
    assert every.names == ["train/a", "train/b", "val/c"]
    assert data.ScanFolder(written.root, files=["val/c"], card="ika_11").names == ["val/c"]
    assert data.ScanFolder(written.root, card="ika_11", has_labels=False)[0].labels is None


def test_airborne_las_and_laz(tmp_path):
    """The same points as LAS, LAZ and as array: coordinates to the last bit."""
    laspy = pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    written = tiny_sets.ign_lidarhd(tmp_path)
    array = data.AirborneTiles(tmp_path, suffix=".npz")[0]
    tile = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    tile.header.scales = [0.01] * 3
    offset = np.array([770550.0, 6277500.0, 20.0])
    low = np.floor(written.xyz["770_6277"].min(axis=0).astype(np.float64))
    tile.xyz = np.round(written.xyz["770_6277"].astype(np.float64), 2) + offset
    tile.intensity = np.arange(40, dtype=np.uint16)
    tile.classification = written.raw["770_6277"]
    for suffix in (".las", ".laz"):
        tile.write(tmp_path / f"tile{suffix}")
        scan = data.AirborneTiles(tmp_path, suffix=suffix)[0]
        assert scan.name == "tile"
        np.testing.assert_allclose(scan.xyz + low, array.xyz, atol=1e-5)
        np.testing.assert_array_equal(scan.pose[:3, 3], offset + low)
        np.testing.assert_array_equal(scan.labels, array.labels)
        np.testing.assert_array_equal(scan.remission, array.remission)


def test_s3dis_text_has_instances_and_colors(tiny):
    _, opened = tiny("s3dis")
    scan = opened[0]
    np.testing.assert_array_equal(scan.instances, np.repeat(np.arange(1, 6), 6))
    assert scan.colors.shape == (30, 3)
    assert 0 <= scan.colors.min() <= scan.colors.max() <= 1
    assert opened.card.classes[scan.labels[-1]] == "clutter"  # stairs
    assert data.points_of(scan, ["xyz", "colors"]).num_channels == 6
    assert opened[2].instances is None


def test_shapenet_categories(tiny):
    _, opened = tiny("shapenet_part")
    assert [opened.category_of(name) for name in opened.names] == ["mug", "airplane", "airplane"]
    mugs = data.ShapeNetPart(opened.root, "test", categories=["mug"])
    assert mugs.names == ["03797390/d"]
    assert set(mugs[0].labels.tolist()) <= set(mugs.card.groups["mug"])
    np.testing.assert_allclose(np.linalg.norm(opened[0].normals, axis=1), 1, atol=1e-5)
    assert sorted(sum(opened.card.groups.values(), ())) == list(range(50))
