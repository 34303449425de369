# SPDX-License-Identifier: MIT
"""One provocation per message of the data pipeline; each names the file and the remedy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_sets
from house_form import provoke

from torchsparse_lite import data
from torchsparse_lite.data import files

BINARY = ["semantickitti", "nuscenes_lidarseg", "ika_vlp32", "rellis3d", "pandaset", "ouster"]
LABEL_FILES = [name for name in BINARY if name != "ouster"]
TEXT = ["s3dis", "shapenet_part"]


@pytest.fixture
def made(tmp_path):
    """Builds the tiny set of a name."""
    return lambda name: tiny_sets.BUILDERS[name](tmp_path)


def opened(name, written, **options):
    return data.open_dataset(name, written.root, **{**written.options, **options})


# ---- over the table


@pytest.mark.parametrize("name", sorted(data.DATASETS))
def test_missing_root(name, tmp_path, made):
    options = tiny_sets.BUILDERS[name](tmp_path).options
    missing = tmp_path / "nowhere"
    words = [missing, data.load_card(data.DATASETS[name].card).source[:20]]
    provoke(FileNotFoundError, words, lambda: data.open_dataset(name, missing, **options))


@pytest.mark.parametrize("name", sorted(data.DATASETS))
def test_root_is_a_file(name, tmp_path, made):
    written = tiny_sets.BUILDERS[name](tmp_path)
    provoke(
        (FileNotFoundError, NotADirectoryError),
        [],
        lambda: data.open_dataset(name, written.scan_file, **written.options),
    )


@pytest.mark.parametrize("name", BINARY)
def test_truncated_scan(name, made):
    written = made(name)
    with written.scan_file.open("ab") as file:
        file.write(b"123")
    words = [written.scan_file, "multiple", "bytes", "truncated"]
    provoke(ValueError, words, lambda: opened(name, written)[0])


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_points_that_are_not_finite(name, made, bad):
    written = made(name)
    columns = 5 if name == "nuscenes_lidarseg" else 4
    rows = np.fromfile(written.scan_file, np.float32).reshape(-1, columns)
    rows[[2, 7], [0, 2]] = bad
    rows[5, 3] = np.nan
    rows.tofile(written.scan_file)
    words = ["NaN", "3 rows (2, 5, 7)", written.root, "drop_invalid=True"]
    provoke(ValueError, words, lambda: opened(name, written)[0])
    scan = opened(name, written, drop_invalid=True)[0]
    assert len(scan) == len(rows) - 3
    assert scan.labels is None or len(scan.labels) == len(scan)


@pytest.mark.parametrize("name", LABEL_FILES)
def test_wrong_label_count(name, made):
    written = made(name)
    content = written.label_file.read_bytes()
    written.label_file.write_bytes(content[:-4])
    words = [written.label_file, "one per point", "copy both again"]
    provoke(ValueError, words, lambda: opened(name, written)[0])


@pytest.mark.parametrize("name", LABEL_FILES)
def test_missing_label_file(name, made):
    written = made(name)
    written.label_file.unlink()
    words = [written.label_file, "has_labels=False"]
    provoke(FileNotFoundError, words, lambda: opened(name, written)[0])
    assert opened(name, written, has_labels=False)[0].labels is None


@pytest.mark.parametrize("name", LABEL_FILES)
def test_unknown_label_id(name, made):
    written = made(name)
    width = "u1" if name == "nuscenes_lidarseg" else "<u4"
    raw = np.fromfile(written.label_file, width)
    raw[3] = 201
    raw.tofile(written.label_file)
    provoke(ValueError, [written.label_file, "201"], lambda: opened(name, written)[0])


@pytest.mark.parametrize("name", BINARY)
def test_scan_file_vanishes(name, made):
    written = made(name)
    scans = opened(name, written)
    written.scan_file.unlink()
    provoke(FileNotFoundError, [written.scan_file], lambda: scans[0])


@pytest.mark.parametrize("name", BINARY)
def test_remission_out_of_range(name, made):
    written = made(name)
    columns = 5 if name == "nuscenes_lidarseg" else 4
    rows = np.fromfile(written.scan_file, np.float32).reshape(-1, columns)
    rows[4, 3] = 300.0
    rows.tofile(written.scan_file)
    words = [written.scan_file, "300.0 in row 4", "remission_max"]
    provoke(ValueError, words, lambda: opened(name, written)[0])


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("line", ["1 2 3", "1 2 3 4 5 six 7", "1 2 3 4 5 6 7 8"])
def test_broken_text(name, made, line):
    written = made(name)
    with written.scan_file.open("a") as file:
        file.write(line + "\n")
    provoke(ValueError, [written.scan_file, "numbers a line"], lambda: opened(name, written)[0])


@pytest.mark.parametrize("name", sorted(set(data.DATASETS) - {"ouster"}))
def test_unknown_label_map(name, made):
    written = made(name)
    words = ["official", "'mine'"]
    provoke(ValueError, words, lambda: opened(name, written, label_map="mine"))


@pytest.mark.parametrize(
    "name", ["semantickitti", "nuscenes_lidarseg", "ika_vlp32", "s3dis", "shapenet_part"]
)
def test_unknown_split(name, made):
    written = made(name)
    words = ["split", "'validation'"]
    call = {"split": "validation"}
    provoke(ValueError, words, lambda: data.open_dataset(name, written.root, **call))


def test_unknown_data_set(tmp_path):
    provoke(ValueError, ["semantickitti", "'kitti'"], lambda: data.open_dataset("kitti", tmp_path))


# ---- layout by layout


def test_semantickitti(made, tmp_path):
    root = made("semantickitti").root
    kitti = data.SemanticKITTI
    provoke(ValueError, ["split, sequences, files", "none"], lambda: kitti(root))
    provoke(ValueError, ["split and sequences"], lambda: kitti(root, "val", sequences=["00"]))
    provoke(FileNotFoundError, ["01, 02", "allow_missing"], lambda: kitti(root, "train"))
    call = lambda: kitti(root, "test", allow_missing=True)  # noqa: E731
    provoke(FileNotFoundError, ["11", "split 'test'"], call)
    provoke(FileNotFoundError, ["07"], lambda: kitti(root, sequences=["07"]))
    provoke(FileNotFoundError, ["000009"], lambda: kitti(root, files=["00/000009"]))
    provoke(ValueError, ['"00/000000"'], lambda: kitti(root, files=["000000"]))
    (root / "sequences" / "03" / "velodyne").mkdir(parents=True)
    provoke(FileNotFoundError, ["03", ".bin scans"], lambda: kitti(root, sequences=["03"]))
    poses = root / "sequences" / "00" / "poses.txt"
    text = poses.read_text()
    poses.write_text("".join(text.splitlines(keepends=True)[:1]))
    provoke(ValueError, [poses, "a pose per frame"], lambda: kitti(root, files=["00/000002"])[0])
    poses.write_text("1 2 3\n")
    provoke(ValueError, [poses, "12 numbers"], lambda: kitti(root, sequences=["00"]))
    poses.write_text(text)
    calib = root / "sequences" / "00" / "calib.txt"
    calib.write_text(f"P0: 1 2 3\nTr: 1 2\nTr: {'x ' * 12}\n")
    provoke(ValueError, [calib, "Tr"], lambda: kitti(root, sequences=["00"]))


def test_nuscenes(made):
    root = made("nuscenes_lidarseg").root
    tables = root / "v1.0-mini"
    nuscenes = data.NuScenesLidarseg
    provoke(ValueError, ["split, scenes"], lambda: nuscenes(root))
    provoke(ValueError, ["scene-0001"], lambda: nuscenes(root, scenes=["scene-0001"]))
    provoke(FileNotFoundError, ["v1.0-trainval"], lambda: nuscenes(root, "val"))
    (tables / "category.json").write_text(json.dumps([{"name": "dragon", "index": 1}]))
    provoke(ValueError, ["category.json", "dragon"], lambda: nuscenes(root, "mini_val"))
    (tables / "category.json").write_text(json.dumps([]))
    call = lambda: nuscenes(root, "mini_val")[0]  # noqa: E731
    provoke(ValueError, ["lidarseg.bin", "category.json"], call)
    (tables / "lidarseg.json").write_text("[]")
    provoke(ValueError, ["lidarseg.json", "has_labels=False"], call)
    (tables / "lidarseg.json").write_text("{")
    provoke(ValueError, ["lidarseg.json", "JSON"], call)
    (tables / "scene.json").unlink()
    provoke(FileNotFoundError, ["scene.json"], call)
    (root / "v1.0-test").mkdir()
    one = lambda: nuscenes(root, scenes=["scene-0103"])  # noqa: E731
    provoke(ValueError, ["v1.0-mini", "v1.0-test", "version="], one)


def test_folders(made, tmp_path):
    root = made("ika_vlp32").root
    folder = data.ScanFolder
    both = {"files": ["train/a"], "card": "ika_11"}
    provoke(ValueError, ["split and files"], lambda: folder(root, "train", **both))
    call = lambda: folder(root, files=["train/z"], card="ika_11")  # noqa: E731
    provoke(FileNotFoundError, ["train/z.bin"], call)
    (root / "train" / "a.bin").rename(root / "a.bin")
    (root / "train" / "b.bin").unlink()
    call = lambda: folder(root, "train", card="ika_11")  # noqa: E731
    provoke(FileNotFoundError, [root / "train", ".bin scans"], call)
    call = lambda: folder(root, "train", card="rellis3d")  # noqa: E731
    provoke(FileNotFoundError, ["pt_train.lst"], call)
    call = lambda: folder(root, card="rellis3d")  # noqa: E731
    provoke(FileNotFoundError, ["os1_cloud_node_kitti_bin"], call)


def test_airborne(made, tmp_path):
    written = made("ign_lidarhd")
    tiles = data.AirborneTiles
    provoke(FileNotFoundError, [".laz tiles", ".npz"], lambda: tiles(written.root))
    provoke(ValueError, [".laz, .las, .npz"], lambda: tiles(written.root, suffix=".ply"))
    call = lambda: tiles(written.root, files=["x"], suffix=".npz")  # noqa: E731
    provoke(FileNotFoundError, ["x.npz"], call)
    with np.load(written.scan_file) as content:
        arrays = dict(content)
    call = lambda: tiles(written.root, suffix=".npz")[0]  # noqa: E731
    np.savez(written.scan_file, **{**arrays, "classification": np.full(40, 200, np.uint8)})
    provoke(ValueError, ["200", written.scan_file], call)
    np.savez(written.scan_file, **{**arrays, "intensity": np.zeros(39)})
    provoke(ValueError, ["one row per point", "39"], call)
    arrays["xyz"][3, 1] = np.nan
    np.savez(written.scan_file, **arrays)
    provoke(ValueError, ["1 rows (3)", "drop_invalid"], call)
    del arrays["offset"]
    np.savez(written.scan_file, **arrays)
    provoke(ValueError, ["offset", written.scan_file], call)
    written.scan_file.write_bytes(b"nothing")
    provoke(ValueError, [written.scan_file], call)


@pytest.mark.parametrize("content", [b"", b"nothing", b"LASF" + bytes(400)])
def test_airborne_damaged_laz(tmp_path, content):
    pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    (tmp_path / "tile.laz").write_bytes(content)
    words = [tmp_path / "tile.laz", "LAS or LAZ"]
    provoke(ValueError, words, lambda: data.AirborneTiles(tmp_path)[0])


def test_s3dis(made):
    root = made("s3dis").root
    rooms = data.S3DIS
    provoke(ValueError, ["split, areas"], lambda: rooms(root))
    provoke(FileNotFoundError, ["Area_2"], lambda: rooms(root, "train"))
    annotations = root / "Area_1" / "hallway_1" / "Annotations"
    (annotations / "dragon_1.txt").write_text("")
    call = lambda: rooms(root, areas=["Area_1"])[0]  # noqa: E731
    provoke(ValueError, ["dragon", "dragon_1.txt"], call)
    for path in annotations.iterdir():
        path.unlink()
    provoke(FileNotFoundError, [annotations, ".txt"], call)
    call = lambda: rooms(root, areas=["Area_5"])[0]  # noqa: E731
    array = root / "Area_5_lobby_1.npy"
    rows = np.load(array)
    rows[0, 6] = 40
    np.save(array, rows)
    provoke(ValueError, [array, "40"], call)
    np.save(array, rows[:, :6])
    provoke(ValueError, [array, "(N, 7)"], call)
    array.write_bytes(b"nothing")
    provoke(ValueError, [array, "an array"], call)


def test_shapenet(made):
    root = made("shapenet_part").root
    part = data.ShapeNetPart
    provoke(ValueError, ["airplane", "'boat'"], lambda: part(root, "train", categories=["boat"]))
    shapes = part(root, "train")
    provoke(ValueError, ["0000/x"], lambda: shapes.category_of("0000/x"))
    (root / "03797390" / "b.txt").unlink()
    provoke(FileNotFoundError, ["b.txt"], lambda: shapes[0])
    table = root / "synsetoffset2category.txt"
    table.write_text("Boat\t0001\n")
    provoke(ValueError, ["boat", table], lambda: part(root, "train"))
    table.unlink()
    provoke(FileNotFoundError, [table], lambda: part(root, "train"))


# ---- cards, scans, samples, transforms

CARD = data.load_card("semantickitti")
CLOUD = np.zeros((3, 3), np.float32)
ONES = np.ones(3, np.float32)
PLAIN = data.Scan(CLOUD, ONES)
LABELLED = replace(PLAIN, labels=np.zeros(3, np.int64))
RNG = np.random.default_rng(0)


def table(*rows):
    return pytest.mark.parametrize(
        ("kind", "words", "call"), [pytest.param(*row[1:], id=row[0]) for row in rows]
    )


@table(
    ("card name", FileNotFoundError, ["semantickitti", "kitty"], lambda: data.load_card("kitty")),
    ("train ids", TypeError, ["integers", "float64"], lambda: CARD.to_raw(np.array([0.9]))),
    ("train id", ValueError, ["19", "255"], lambda: CARD.to_raw(np.array([3, 19]))),
    ("raw id", ValueError, ["70000"], lambda: CARD.to_train(np.array([70000]))),
    ("negative", ValueError, ["-3"], lambda: CARD.to_train(np.array([-3]))),
    ("label map", ValueError, ["spvnas"], lambda: CARD.to_train(np.array([0]), "mine")),
    ("xyz type", TypeError, ["ndarray", "list"], lambda: data.Scan([[0, 0, 0]], ONES)),
    ("xyz dtype", TypeError, ["float32"], lambda: data.Scan(CLOUD.astype(np.float64), ONES)),
    ("xyz shape", ValueError, ["(3, 3)", "(3, 2)"], lambda: data.Scan(CLOUD[:, :2], ONES)),
    ("rows", ValueError, ["remission", "(2,)"], lambda: data.Scan(CLOUD, ONES[:2])),
    ("labels dtype", TypeError, ["int64"], lambda: replace(PLAIN, labels=ONES)),
    ("pose", ValueError, ["(4, 4)"], lambda: replace(PLAIN, pose=np.eye(3))),
    (
        "colours of some",
        ValueError,
        ["colors", "all scans"],
        lambda: PLAIN.concat(replace(PLAIN, colors=CLOUD)),
    ),
    ("feature", ValueError, ["'rgb'"], lambda: data.points_of(PLAIN, ["xyz", "rgb"])),
    ("no colours", ValueError, ["colors"], lambda: data.points_of(PLAIN, ["colors"])),
    ("seed", ValueError, ["seed", "-1"], lambda: data.SegmentationSamples([PLAIN], seed=-1)),
    (
        "mix probability",
        ValueError,
        ["50"],
        lambda: data.SegmentationSamples([PLAIN], mix_probability=50),
    ),
    ("epoch", ValueError, ["-1"], lambda: data.SegmentationSamples([PLAIN]).set_epoch(-1)),
    ("rotation", ValueError, ["[2, 1]"], lambda: data.RotateZ(2, 1)),
    ("scale", ValueError, ["above 0"], lambda: data.Scale(0, 1)),
    ("flip", ValueError, ["y", "2"], lambda: data.Flip(0, 2)),
    ("jitter", ValueError, ["[0.2, 0.1]"], lambda: data.Jitter(0.2, 0.1)),
    ("drop", ValueError, ["max_fraction"], lambda: data.DropPoints(1.5)),
    ("limit", ValueError, ["at least 1"], lambda: data.LimitPoints(0)),
    ("grid", ValueError, ["size_m must be above 0"], lambda: data.GridSample(0.0)),
    ("crop", ValueError, ["[5, 1]"], lambda: data.RangeCrop(5, 1)),
    ("areas", ValueError, ["num_areas", "(1,)"], lambda: data.LaserMix((1,))),
    ("inclination", ValueError, ["low_rad"], lambda: data.LaserMix(low_rad=1.0)),
    ("swap", ValueError, ["swap"], lambda: data.PolarMix([0], swap_probability=-0.5)),
    ("copies", ValueError, ["copies"], lambda: data.PolarMix([0], copies=-1)),
    ("paste", ValueError, ["attempts"], lambda: data.InstancePaste([0], [8], attempts=0)),
    ("polar labels", ValueError, ["labelled"], lambda: data.PolarMix([0])(PLAIN, PLAIN, RNG)),
    (
        "paste labels",
        ValueError,
        ["labelled"],
        lambda: data.InstancePaste([0], [8])(PLAIN, LABELLED, RNG),
    ),
    (
        "paste instances",
        ValueError,
        ["instances", "PolarMix"],
        lambda: data.InstancePaste([0], [8])(LABELLED, LABELLED, RNG),
    ),
)
def test_message(kind, words, call):
    provoke(kind, words, call)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", ["YAML"]),
        ("- a", ["mapping", "list"]),
        ("title: t", ["complete", "licence"]),
        ("title: t\nlicence: l\nsource: s\nunits: u\ncolour: red", ["colour"]),
        ("title: t\nlicence: l\nsource: s\nunits: u\nclasses: [{name: a}]", ["color"]),
        (
            "title: t\nlicence: l\nsource: s\nunits: u\nclasses:\n"
            "  - {name: a, color: [0, 0, 0], raw: 0}\n  - {name: a, color: [0, 0, 0], raw: 1}",
            ["different"],
        ),
        (
            "title: t\nlicence: l\nsource: s\nunits: u\nlabel_maps: {official: {0: dragon}}",
            ["official", "dragon"],
        ),
    ],
)
def test_broken_cards(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    provoke(ValueError, [path, *words], lambda: data.load_card(path))


def test_an_unlabelled_prediction_of_another_length(tmp_path):
    path = data.write_prediction_file(tmp_path / "p.label", np.zeros(4, np.int64), CARD)
    words = [path, "one per point (5", "4 labels"]
    provoke(ValueError, words, lambda: data.read_label_file(path, CARD, 5))


def test_empty_text_file_is_no_point(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert files.read_matrix("here", tmp_path / "empty.txt", 6).shape == (0, 6)


def test_sample_beyond_the_last():
    samples = data.SegmentationSamples([PLAIN])
    assert samples[-1]["name"] == ""
    with pytest.raises(IndexError):
        samples[1]
