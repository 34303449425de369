# SPDX-License-Identifier: MIT
"""The street simulator: what its scans contain, how they are written, how dense they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from torchsparse_lite.data.simulate import (
    SENSORS,
    ClassId,
    DriveThrough,
    houses,
    people,
    raycast,
    shapes,
    simulate,
    simulate_scan,
    statistics,
    vehicles,
    write_sequence,
)
from torchsparse_lite.data.simulate.materials import MOVING, SURFACES, Material
from torchsparse_lite.data.simulate.sequence import ARGUMENTS_FILE
from torchsparse_lite.data.simulate.shapes import Mesh

try:
    CASTER = raycast.ray_caster_name()
except RuntimeError:
    CASTER = ""
needs_rays = pytest.mark.skipif(not CASTER, reason="no ray caster: pip install embreex or open3d")

# Scan 00/000000 of SemanticKITTI at 0.05 m: counts of ../shared/data/manifest.json.
REAL_VOXELS = np.array([91767, 60000, 31758, 14439, 5923])
REAL_PAIRS = np.array([346221, 362350, 238002, 121539, 54957])
REAL_POINTS = 124_668

STREETS = {"seed": 5, "frames": 3, "interval_s": 0.4}


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(3)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data set with one sequence of three frames."""
    folder = tmp_path_factory.mktemp("street")
    simulate(folder, sequences=["08"], progress=False, **STREETS)
    return folder


def read_frame(folder: Path, frame: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.fromfile(folder / "velodyne" / f"{frame:06d}.bin", "<f4").reshape(-1, 4)
    return points, np.fromfile(folder / "labels" / f"{frame:06d}.label", "<u4")


def read_poses(folder: Path) -> np.ndarray:
    """LiDAR poses in the LiDAR's first frame by the data set's formula."""

    def homogeneous(numbers):
        return np.vstack([np.array(numbers, float).reshape(3, 4), [0, 0, 0, 1]])

    calib = dict(line.split(":") for line in (folder / "calib.txt").read_text().splitlines())
    assert sorted(calib) == ["P0", "P1", "P2", "P3", "Tr"]
    tr = homogeneous(calib["Tr"].split())
    lines = (folder / "poses.txt").read_text().splitlines()
    return np.stack([np.linalg.inv(tr) @ homogeneous(line.split()) @ tr for line in lines])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Bodies


def area(triangles: np.ndarray) -> float:
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return float(np.linalg.norm(np.cross(a, b), axis=1).sum() / 2)


def test_primitives_have_the_areas_of_geometry():
    assert area(shapes.box((1, 2, 3), (0, 0, 0))) == pytest.approx(22.0)
    assert area(shapes.ellipsoid((0, 0, 0), (1, 1, 1), rings=40, corners=40)) == pytest.approx(
        4 * np.pi, rel=0.01
    )
    assert area(shapes.tube([(0, 0, 0), (0, 0, 2)], 1.0, 64)) == pytest.approx(6 * np.pi, rel=0.01)


def test_a_panel_is_set_back_from_the_beholder():
    wall = np.array([(0, 0, 0), (2, 0, 0), (2, 0, 1), (0, 0, 1)])  # seen from -y
    frame, inner = shapes.panels(wall, (0.25, 0.25, 0.25, 0.25), 0.2)
    assert inner[..., 1] == pytest.approx(np.full((2, 3), 0.2))
    assert area(inner) == pytest.approx(0.5)
    assert area(frame) == pytest.approx(1.5 + 3.0 * 0.2)


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (vehicles.car, (3.5, 1.7, 1.3), (5.4, 2.5, 2.2)),
        (vehicles.truck, (5.0, 2.1, 2.2), (9.5, 2.7, 3.5)),
        (vehicles.bus, (9.0, 2.4, 2.7), (12.5, 2.7, 3.3)),
        (vehicles.bicycle, (1.5, 0.5, 0.9), (1.9, 0.7, 1.2)),
        (vehicles.motorcycle, (1.7, 0.6, 0.9), (2.1, 0.9, 1.2)),
        (people.person, (0.2, 0.4, 1.0), (1.2, 1.0, 2.0)),
        (people.bicyclist, (1.5, 0.5, 1.5), (1.9, 0.8, 2.0)),
        (people.motorcyclist, (1.7, 0.6, 1.5), (2.1, 0.9, 1.9)),
    ],
)
def test_bodies_have_the_size_of_what_they_are(make, low, high):
    """Length, width and height; standing on the ground."""
    for seed in range(8):
        corners = make(np.random.default_rng(seed)).triangles.reshape(-1, 3)
        assert np.isfinite(corners).all()
        size = np.ptp(corners, axis=0)
        assert (size >= low).all(), (seed, size)
        assert (size <= high).all(), (seed, size)
        assert abs(corners[:, 2].min()) < 0.1


def test_a_walker_keeps_its_figure_and_moves_its_legs():
    first, second = (people.person(np.random.default_rng(1), phase) for phase in (0.0, 0.25))
    assert len(first) == len(second)
    assert np.array_equal(first.albedo, second.albedo)
    assert np.abs(first.triangles - second.triangles).max() > 0.2


def test_every_material_has_a_surface():
    assert set(SURFACES) == set(Material)
    assert all(0 <= s.remission <= 1 and 0 <= s.loss <= 1 for s in SURFACES.values())


def test_a_house_has_walls_windows_doors_and_a_roof():
    body = houses.house(np.random.default_rng(0), 12.0, 9.0, 2)
    assert {Material.WINDOW, Material.WOOD, Material.ROOF} <= set(body.material.tolist())


# Scans


@needs_rays
def test_a_scan_is_a_function_of_its_seed(scan):
    again = simulate_scan(3)
    assert scan[0].tobytes() == again[0].tobytes()
    assert scan[1].tobytes() == again[1].tobytes()
    assert simulate_scan(4)[0].tobytes() != again[0].tobytes()


@needs_rays
def test_points_and_labels_are_what_the_data_set_has(scan):
    points, labels = scan
    assert points.dtype == np.float32
    assert points.shape == (len(labels), 4)
    assert labels.dtype == np.uint32
    assert np.isfinite(points).all()
    assert 0.0 <= points[:, 3].min() <= points[:, 3].max() <= 1.0
    assert np.abs(points[:, :3]).max() < SENSORS["hdl64"].max_range_m + 0.1
    known = {int(i) for i in ClassId}
    assert set((labels & 0xFFFF).tolist()) <= known


@needs_rays
def test_an_instance_is_one_thing_of_one_class(scan):
    points, labels = scan
    things = {10, 11, 13, 15, 18, 20, 30, 31, 32} | {int(i) for i in MOVING.values()}
    is_thing = np.isin(labels & 0xFFFF, list(things))
    assert (labels[is_thing] >> 16 > 0).all()
    assert (labels[~is_thing] >> 16 == 0).all()
    for instance in np.unique(labels[is_thing] >> 16):
        mine = labels >> 16 == instance
        assert len(np.unique(labels[mine])) == 1
        assert np.ptp(points[mine, :2], axis=0).max() < 13.0


@needs_rays
def test_the_ground_is_below_the_sensor_and_nothing_is_inside_its_car(scan):
    points, labels = scan
    near = np.linalg.norm(points[:, :2], axis=1) < 8
    road = np.isin(labels, (int(ClassId.ROAD), int(ClassId.LANE_MARKING))) & near
    assert road.sum() > 5000
    assert np.median(points[road, 2]) == pytest.approx(-SENSORS["hdl64"].height_m, abs=0.15)
    assert np.linalg.norm(points[:, :3], axis=1).min() > 1.0


@needs_rays
@pytest.mark.parametrize(
    ("sensor", "beams", "least"),
    [("hdl64", 64, 100_000), ("hdl32", 32, 35_000), ("os128", 128, 60_000)],
)
def test_sensors(sensor, beams, least):
    """As many beams as the name says, in order, and as many points as are usual."""
    device = SENSORS[sensor]
    points, _ = simulate_scan(3, sensor)
    assert len(device.elevations_deg) == beams
    assert least < len(points) <= beams * device.azimuth_steps
    distance = np.linalg.norm(points[:, :3], axis=1)
    assert distance.max() < device.max_range_m + 0.1
    elevation = np.rad2deg(np.arcsin(points[:, 2] / distance))
    nearest = np.abs(elevation[:, None] - np.array(device.elevations_deg)).argmin(1)
    far = distance > 5
    assert (np.diff(nearest[far]) >= 0).mean() > 0.999
    assert len(np.unique(nearest)) > 0.95 * beams


@needs_rays
def test_vegetation_is_porous(scan):
    """Neighbouring rays return from different depths; on a building they do not."""
    points, labels = scan
    distance = np.linalg.norm(points[:, :3], axis=1)
    spread = {}
    for name in (ClassId.VEGETATION, ClassId.BUILDING):
        mine = labels == name
        pair = mine[1:] & mine[:-1] & (distance[1:] < 25)
        spread[name] = np.median(np.abs(np.diff(distance))[pair])
    assert spread[ClassId.VEGETATION] > 1.5 * spread[ClassId.BUILDING]


# Density


def test_statistics_of_a_hand_made_cloud():
    """Two voxels side by side and one far away: 2 + 2 + 1 pairs, then 2 cells."""
    points = np.array([(0.01, 0, 0, 1), (0.06, 0, 0, 1), (0.07, 0, 0, 1), (9, 9, 9, 1)], np.float32)
    found = statistics(points, np.array([10, 10, 40 + (7 << 16), 40], np.uint32), levels=2)
    assert found.points == 4
    assert found.voxels == (3, 2)
    assert found.pairs == (5, 2)
    assert found.pairs_per_voxel == pytest.approx((5 / 3, 1.0))
    assert found.classes == {10: 2, 40: 2}


def test_statistics_of_an_empty_cloud():
    assert statistics(np.zeros((0, 4), np.float32)).voxels == (0,) * 5


@pytest.mark.data
def test_statistics_of_a_real_scan_are_those_of_the_manifest(data_dir):
    file = data_dir / "semantickitti/sequences/00/velodyne/000000.bin"
    found = statistics(np.fromfile(file, np.float32).reshape(-1, 4))
    assert found.points == REAL_POINTS
    assert found.voxels == tuple(REAL_VOXELS)
    assert found.pairs == tuple(REAL_PAIRS)


def assert_close_to_the_real_scan(voxels, pairs_per_voxel, *, within: float) -> None:
    np.testing.assert_allclose(voxels, REAL_VOXELS, rtol=within)
    np.testing.assert_allclose(pairs_per_voxel, REAL_PAIRS / REAL_VOXELS, rtol=within)


@needs_rays
def test_a_scan_is_as_dense_as_a_real_one(scan):
    found = statistics(*scan)
    assert found.points == pytest.approx(REAL_POINTS, rel=0.1)
    assert_close_to_the_real_scan(found.voxels, found.pairs_per_voxel, within=0.25)


@needs_rays
@pytest.mark.slow
def test_several_streets_are_as_dense_as_a_real_one():
    """Each of eight within 25 %, their mean within 15 %; the classes are those of a street."""
    rows = [statistics(*simulate_scan(seed)) for seed in range(8)]
    for row in rows:
        assert_close_to_the_real_scan(row.voxels, row.pairs_per_voxel, within=0.25)
    voxels = np.mean([row.voxels for row in rows], 0)
    pairs = np.mean([row.pairs_per_voxel for row in rows], 0)
    assert_close_to_the_real_scan(voxels, pairs, within=0.15)
    total = sum(row.points for row in rows)
    shares = {i: sum(row.classes.get(i, 0) for row in rows) / total for i in ClassId}
    assert shares[ClassId.ROAD] > 0.15
    assert shares[ClassId.SIDEWALK] > 0.1
    assert shares[ClassId.VEGETATION] > 0.1
    assert shares[ClassId.BUILDING] > 0.05
    for rare in (ClassId.PERSON, ClassId.BICYCLE, ClassId.POLE, ClassId.TRAFFIC_SIGN):
        assert 0.0005 < shares[rare] < 0.02, rare


# Sequences


@needs_rays
def test_the_layout_is_that_of_semantickitti(root):
    folder = root / "sequences" / "08"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    frames = {f"velodyne/{i:06d}.bin" for i in range(3)} | {
        f"labels/{i:06d}.label" for i in range(3)
    }
    assert names == frames | {"calib.txt", "poses.txt", "times.txt", ARGUMENTS_FILE}
    for frame in range(3):
        points, labels = read_frame(folder, frame)
        assert len(points) == len(labels) > 90_000
    times = [float(line) for line in (folder / "times.txt").read_text().split()]
    assert times == pytest.approx([0.0, 0.4, 0.8])


@needs_rays
def test_poses_bring_the_frames_into_one_world(root):
    """Facades and road of two frames lie on each other, but not without the poses."""
    folder = root / "sequences" / "08"
    poses = read_poses(folder)
    assert poses[0] == pytest.approx(np.eye(4), abs=1e-9)
    assert np.linalg.norm(poses[2, :3, 3]) > 2.0
    clouds = []
    for frame in (0, 2):
        points, labels = read_frame(folder, frame)
        still = points[(labels == ClassId.BUILDING) & (points[:, 0] > 2)][:, :3].astype(float)
        clouds.append((still, still @ poses[frame, :3, :3].T + poses[frame, :3, 3]))

    def gap(first, second):
        step = max(1, len(first) // 1500)
        distances = torch.cdist(torch.from_numpy(first[::step]), torch.from_numpy(second))
        return float(distances.amin(1).median())

    assert gap(clouds[1][1], clouds[0][1]) < 0.12
    assert gap(clouds[1][1], clouds[0][1]) < 0.5 * gap(clouds[1][0], clouds[0][0])


@needs_rays
def test_files_hold_what_the_drive_saw(root):
    drive = DriveThrough([5, 8], SENSORS["hdl64"], frames=3, interval_s=0.4)
    folder = root / "sequences" / "08"
    points, labels = drive.scan(1)
    found = read_frame(folder, 1)
    assert np.array_equal(points, found[0])
    assert np.array_equal(labels, found[1])
    moves = np.linalg.inv(drive.pose[0]) @ drive.pose
    assert read_poses(folder) == pytest.approx(moves, abs=1e-8)


@needs_rays
def test_moving_things_keep_their_instance_and_move(root):
    folder, poses = root / "sequences" / "08", read_poses(root / "sequences" / "08")
    places: dict[int, list] = {}
    for frame in range(3):
        points, labels = read_frame(folder, frame)
        world = points[:, :3] @ poses[frame, :3, :3].T + poses[frame, :3, 3]
        for label in np.unique(labels[(labels & 0xFFFF) > 250]):
            if (labels == label).sum() > 30:
                places.setdefault(int(label), []).append(np.median(world[labels == label], 0))
    moves = [np.linalg.norm(seen[-1] - seen[0]) for seen in places.values() if len(seen) == 3]
    assert len(moves) >= 3
    assert np.mean([move > 0.4 for move in moves]) > 0.7


@needs_rays
def test_a_second_run_keeps_what_is_there(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    simulate(root, sequences=["08"], progress=False, **STREETS)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@needs_rays
def test_a_run_that_was_killed_goes_on(tmp_path, monkeypatch):
    """Killed while a scan was half written: no half scan is seen, the end is the same."""
    arguments = {"sequence": "03", "frames": 2, "seed": 1, "sensor": "hdl32"}
    write_sequence(tmp_path / "whole", **arguments)
    replace = os.replace

    def kill(temporary: Path, path: Path) -> None:
        if path.name == "000001.bin":
            raise KeyboardInterrupt
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        write_sequence(tmp_path / "torn", **arguments)
    monkeypatch.undo()
    folder = tmp_path / "torn" / "sequences" / "03" / "velodyne"
    assert [path.name for path in folder.iterdir()] == ["000000.bin"]
    (folder / ".000001.bin.part").write_bytes(b"half")  # what kill -9 leaves
    write_sequence(tmp_path / "torn", **arguments)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


@needs_rays
def test_a_full_disk_is_one_clear_message(tmp_path, monkeypatch):
    def full(temporary: Path, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        OSError, match=r"simulate: .*simulation.json must be writable, got No space"
    ):
        write_sequence(tmp_path, "00", frames=1, seed=0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@needs_rays
def test_other_arguments_are_refused(root):
    with pytest.raises(ValueError, match=r"made with the same arguments, got one made with.*seed"):
        simulate(root, sequences=["08"], progress=False, **(STREETS | {"seed": 6}))


@needs_rays
def test_a_real_data_set_is_never_overwritten(tmp_path):
    scan = tmp_path / "sequences" / "00" / "velodyne" / "000000.bin"
    scan.parent.mkdir(parents=True)
    scan.write_bytes(b"real")
    with pytest.raises(ValueError, match=r"must be empty or simulated, got files of others"):
        simulate(tmp_path, sequences=["00"], frames=1, seed=0, progress=False)
    assert contents(tmp_path) == {"sequences/00/velodyne/000000.bin": b"real"}


@needs_rays
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sequences": "08"}, TypeError, "sequences must be a sequence of names"),
        ({"sequences": ["00", "8"]}, ValueError, "sequences must be names of two digits"),
        ({"frames": 0}, ValueError, "frames must be at least 1"),
        ({"frames": 1.5}, TypeError, "frames must be an int"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"interval_s": 0.0}, ValueError, r"interval_s must be in \(0, 10\]"),
        ({"sensor": "radar"}, ValueError, "sensor must be one of hdl64, hdl32, os128"),
    ],
)
def test_wrong_arguments(tmp_path, change, error, message):
    arguments = {"sequences": ["00"], "frames": 1, "seed": 0, **change}
    with pytest.raises(error, match=f"simulate: {message}"):
        simulate(tmp_path, **arguments)
    assert not [*tmp_path.iterdir()]


def test_an_unknown_sensor_of_one_scan():
    with pytest.raises(ValueError, match="simulate_scan: sensor must be one of hdl64"):
        simulate_scan(0, "radar")


def test_without_a_ray_caster_the_error_names_the_extra(monkeypatch, tmp_path):
    for name in ("embreex", "open3d"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        RuntimeError, match=r"ray caster must be installed.*torchsparse_lite\[sim\]"
    ):
        simulate(tmp_path, sequences=["00"], frames=1, seed=0)
    assert not [*tmp_path.iterdir()]


@needs_rays
def test_the_bar_is_shown_where_tqdm_is_and_not_needed(tmp_path, monkeypatch, capfd):
    arguments = {"sequences": ["00"], "frames": 1, "seed": 0, "sensor": "hdl32"}
    pytest.importorskip("tqdm")
    simulate(tmp_path / "a", **arguments)
    assert "simulate" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    simulate(tmp_path / "b", **arguments)
    assert capfd.readouterr().err == ""
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@needs_rays
def test_arguments_lie_beside_the_scans(root):
    found = json.loads((root / "sequences" / "08" / ARGUMENTS_FILE).read_text())
    assert found == {**STREETS, "sensor": "hdl64", "ray_caster": CASTER, "version": 1}


# Ray casters


def test_the_nearer_of_two_hits():
    def hits(*distances):
        zeros = np.zeros(len(distances))
        label = np.arange(len(distances), dtype=np.uint32) + int(10 * distances[0])
        return raycast.Hits(np.array(distances), zeros, zeros.astype(np.uint8), zeros, label)

    found = raycast.nearest(hits(1.0, 5.0, np.inf), hits(2.0, 3.0, np.inf))
    assert found.distance.tolist() == [1.0, 3.0, np.inf]
    assert found.label.tolist() == [10, 21, 12]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["embreex", "open3d"])
def test_ray_casters_meet_a_box(library, monkeypatch):
    """A ray along x meets the near face, one along z nothing, a slanted one at a known angle."""
    pytest.importorskip(library, exc_type=ImportError)
    monkeypatch.setattr(raycast, "_LIBRARIES", {library: raycast._LIBRARIES[library]})
    body = Mesh.of(shapes.box((2, 8, 2), (5, 0, 0)), Material.WOOD).labelled(ClassId.CAR, 3)
    slant = np.array([np.cos(0.3), np.sin(0.3), 0.0])
    rays = np.array([(1.0, 0, 0), (0, 0, 1.0), slant])
    found = raycast.RayCaster(body).cast(np.zeros(3), rays)
    assert found.distance == pytest.approx([4.0, np.inf, 4.0 / np.cos(0.3)])
    assert found.facing[[0, 2]] == pytest.approx([1.0, np.cos(0.3)])
    assert found.label[[0, 2]].tolist() == [10 + (3 << 16)] * 2


@needs_rays
@pytest.mark.slow
def test_a_scan_takes_a_fraction_of_a_second():
    """0.3 s on one core is the aim; the bound here is loose, for busy machines."""
    drive = DriveThrough([0], SENSORS["hdl64"], frames=4, interval_s=0.1)
    drive.scan(0)
    start = time.process_time()
    for frame in (1, 2, 3):
        drive.scan(frame)
    assert (time.process_time() - start) / 3 < 1.0


def test_importing_the_simulator_loads_no_heavy_package():
    heavy = "{'embreex', 'open3d', 'matplotlib'}"
    code = f"import sys, torchsparse_lite.data.simulate; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
