# SPDX-License-Identifier: MIT
"""A tiny self-made set in each published layout, and hands to damage it. Nothing of a real file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class TinySet:
    """What was written.

    Attributes:
        root: folder of the set.
        options: of the loader.
        raw: label ids of each scan, by name, in the order that the loader must give.
        xyz: coordinates of each scan.
        scan_file: the file of the first scan.
        label_file: the file of its labels, where labels have files of their own.
    """

    root: Path
    options: dict[str, Any]
    raw: dict[str, np.ndarray | None] = field(default_factory=dict)
    xyz: dict[str, np.ndarray] = field(default_factory=dict)
    scan_file: Path = Path()
    label_file: Path | None = None


def cloud(count: int, seed: int, *, remission_max: float = 1.0, columns: int = 4) -> np.ndarray:
    """(count, columns) float32: xyz within 10 m, remission, zeros."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((count, columns), np.float32)
    rows[:, :3] = rng.uniform(-10, 10, (count, 3))
    rows[:, 3] = rng.integers(0, 101, count) * np.float32(remission_max / 100)
    return rows


def some_ids(ids, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.asarray(ids), count)


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array.tofile(path)
    return path


def semantickitti(root: Path) -> TinySet:
    made = TinySet(root, {"sequences": ["00", "08"]})
    ids = [0, 1, 10, 13, 40, 60, 70, 252, 257]
    for sequence, frames in (("00", 3), ("08", 2)):
        folder = root / "sequences" / sequence
        for frame in range(frames):
            name, count = f"{sequence}/{frame:06d}", 20 + frame
            rows = cloud(count, frame)
            raw = some_ids(ids, count, frame)
            instances = np.arange(count) % 3
            scan = write(folder / "velodyne" / f"{frame:06d}.bin", rows)
            words = (instances << 16 | raw).astype("<u4")
            label = write(folder / "labels" / f"{frame:06d}.label", words)
            made.raw[name], made.xyz[name] = raw, rows[:, :3]
            if len(made.raw) == 1:
                made.scan_file, made.label_file = scan, label
        poses = [np.eye(3, 4) + np.outer([0, 0, 1], [0, 0, 0, frame]) for frame in range(frames)]
        np.savetxt(folder / "poses.txt", np.reshape(poses, (-1, 12)))
        # camera x right, y down, z forward from LiDAR x forward, y left, z up
        turn = "0 -1 0 0 0 0 -1 0 1 0 0 0"
        (folder / "calib.txt").write_text(f"P0: {' '.join(['0'] * 12)}\nTr: {turn}\n")
    return made


def nuscenes_lidarseg(root: Path) -> TinySet:
    made = TinySet(root, {"split": "mini_val", "has_poses": True})
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [
            {"token": "s1", "name": "scene-0103"},
            {"token": "s2", "name": "scene-0916"},
            {"token": "s3", "name": "scene-0061"},
        ],
        "sample": [],
        "sample_data": [],
        "lidarseg": [],
        "ego_pose": [],
        "calibrated_sensor": [
            {"token": "mount", "rotation": [0.5**0.5, 0, 0, 0.5**0.5], "translation": [1, 0, 2]}
        ],
        "category": [
            {"token": "c0", "name": "vehicle.car", "index": 0},  # not the published index
            {"token": "c1", "name": "noise", "index": 1},
            {"token": "c2", "name": "flat.driveable_surface", "index": 24},
        ],
    }
    card_id = np.zeros(32, int)
    card_id[[0, 1, 24]] = 17, 0, 24
    for number, scene in enumerate(["s2", "s1", "s1", "s3"]):
        token, count = f"t{number}", 30 + number
        name = f"n{number}__LIDAR_TOP__{number}.pcd.bin"
        rows = cloud(count, number, remission_max=255.0, columns=5)
        raw = some_ids([0, 1, 24], count, number).astype("u1")
        scan = write(root / "samples" / "LIDAR_TOP" / name, rows)
        label = write(root / "lidarseg" / "v1.0-mini" / f"d{number}_lidarseg.bin", raw)
        tables["sample"].append({"token": token, "scene_token": scene})
        record = {
            "token": f"d{number}",
            "sample_token": token,
            "ego_pose_token": f"e{number}",
            "calibrated_sensor_token": "mount",
            "timestamp": 100 - number,
            "is_key_frame": True,
            "filename": f"samples/LIDAR_TOP/{name}",
        }
        sweep = {**record, "token": f"w{number}", "is_key_frame": False}
        camera = {**record, "token": f"k{number}", "filename": "samples/CAM_FRONT/x.jpg"}
        tables["sample_data"] += [sweep, record, camera]
        entry = {"token": f"d{number}", "sample_data_token": f"d{number}"}
        tables["lidarseg"].append({**entry, "filename": label.relative_to(root).as_posix()})
        pose = {"token": f"e{number}", "rotation": [1, 0, 0, 0], "translation": [10, 20, 0]}
        tables["ego_pose"].append(pose)
        made.raw[token], made.xyz[token] = card_id[raw], rows[:, :3]
        if number == 2:
            made.scan_file, made.label_file = scan, label
    (root / "v1.0-mini").mkdir()
    for name, table in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(table))
    order = ["t2", "t1", "t0"]  # scene-0103 by time, then scene-0916
    made.raw = {name: made.raw[name] for name in order}
    made.xyz = {name: made.xyz[name] for name in order}
    return made


def folder_set(
    root: Path, names, ids, *, remission_max=255.0, label_folder=None, options=None
) -> TinySet:
    made = TinySet(root, options or {})
    for seed, name in enumerate(names):
        rows = cloud(25 + seed, seed, remission_max=remission_max)
        scan = write(root / f"{name}.bin", rows)
        made.xyz[name] = rows[:, :3]
        raw = None
        if ids is not None:
            raw = some_ids(ids, len(rows), seed)
            path = scan.with_suffix(".label")
            if label_folder is not None:
                path = scan.parent.parent / label_folder / path.name
            label = write(path, raw.astype("<u4"))
            made.label_file = made.label_file or label
        made.raw[name] = raw
        if seed == 0:
            made.scan_file = scan
    return made


def ika(root: Path) -> TinySet:
    names = ["train/a", "train/b", "val/c"]
    made = folder_set(root, names, range(11), options={"split": "train"})
    del made.raw["val/c"], made.xyz["val/c"]
    return made


def rellis3d(root: Path) -> TinySet:
    names = [f"{s}/os1_cloud_node_kitti_bin/00000{n}" for s in ("00000", "00001") for n in range(2)]
    label_folder = "os1_cloud_node_semantickitti_label_id"
    options = {"split": "val"}
    made = folder_set(
        root, names, [0, 3, 4, 19], remission_max=0.01, label_folder=label_folder, options=options
    )
    lines = [f"{n}.bin {n.replace('kitti_bin', 'semantickitti_label_id')}.label" for n in names]
    (root / "pt_val.lst").write_text("\n".join(lines) + "\n")
    return made


def pandaset(root: Path) -> TinySet:
    return folder_set(root, ["000001", "000003"], range(43))


def ouster(root: Path) -> TinySet:
    return folder_set(root, ["os1/000000", "os2/000000"], None)


def ign_lidarhd(root: Path) -> TinySet:
    made = TinySet(root, {"suffix": ".npz"})
    for seed, name in enumerate(["770_6277", "771_6277"]):
        raw = some_ids([1, 2, 3, 4, 5, 6, 9, 17, 64, 65], 40, seed).astype("u1")
        xyz = (np.random.default_rng(seed).integers(0, 5000, (40, 3)) / 100).astype(np.float32)
        path = root / f"{name}.npz"
        np.savez_compressed(
            path,
            xyz=xyz,
            offset=np.array([770550.0, 6277500.0, 20.0]),
            intensity=np.arange(40, dtype=np.uint16),
            classification=raw,
        )
        made.raw[name], made.xyz[name] = raw, xyz
        made.scan_file = made.scan_file if seed else path
    return made


def s3dis(root: Path) -> TinySet:
    made = TinySet(root, {"areas": ["Area_1", "Area_5"]})
    words = {"board_1": 11, "chair_1": 8, "chair_2": 8, "floor_1": 1, "stairs_1": 13}
    for room in ("hallway_1", "office_1"):
        folder = root / "Area_1" / room / "Annotations"
        folder.mkdir(parents=True)
        parts = []
        for seed, word in enumerate(words):
            rng = np.random.default_rng(seed)
            rows = np.column_stack([rng.uniform(0, 5, (6, 3)), rng.integers(0, 256, (6, 3))])
            np.savetxt(folder / f"{word}.txt", rows, fmt="%.3f")
            parts.append(np.round(rows, 3))
        name = f"Area_1/{room}"
        made.raw[name] = np.repeat(list(words.values()), 6)
        made.xyz[name] = np.concatenate(parts)[:, :3].astype(np.float32)
    rng = np.random.default_rng(9)
    raw = rng.integers(0, 13, 30)
    xyz = rng.uniform(0, 5, (30, 3))
    np.save(root / "Area_5_lobby_1.npy", np.column_stack([xyz, rng.uniform(0, 255, (30, 3)), raw]))
    made.raw["Area_5/lobby_1"], made.xyz["Area_5/lobby_1"] = raw, xyz.astype(np.float32)
    made.scan_file = root / "Area_1" / "hallway_1" / "Annotations" / "chair_1.txt"
    return made


def shapenet_part(root: Path) -> TinySet:
    made = TinySet(root, {"split": "trainval"})
    (root / "train_test_split").mkdir(parents=True)
    (root / "synsetoffset2category.txt").write_text("Airplane\t02691156\nMug\t03797390\n")
    lists = {"train": ["03797390/b", "02691156/a"], "val": ["02691156/c"], "test": ["03797390/d"]}
    for part, names in lists.items():
        listed = json.dumps([f"shape_data/{name}" for name in names])
        (root / "train_test_split" / f"shuffled_{part}_file_list.json").write_text(listed)
        for seed, name in enumerate(names):
            rng = np.random.default_rng(seed)
            xyz, normals = np.round(rng.uniform(-1, 1, (12, 3)), 4), rng.normal(size=(12, 3))
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            raw = rng.integers(0, 4, 12) if name.startswith("0269") else rng.integers(36, 38, 12)
            (root / name).parent.mkdir(exist_ok=True)
            rows = np.column_stack([xyz, normals, raw])
            np.savetxt(root / f"{name}.txt", rows, fmt="%.6f")
            if part != "test":
                made.raw[name], made.xyz[name] = raw, xyz.astype(np.float32)
    made.scan_file = root / "03797390" / "b.txt"
    return made


BUILDERS = {
    "semantickitti": semantickitti,
    "nuscenes_lidarseg": nuscenes_lidarseg,
    "nuscenes_range": ika,
    "ika_vlp32": ika,
    "rellis3d": rellis3d,
    "pandaset": pandaset,
    "ouster": ouster,
    "ign_lidarhd": ign_lidarhd,
    "s3dis": s3dis,
    "shapenet_part": shapenet_part,
}
