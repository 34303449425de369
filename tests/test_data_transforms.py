# SPDX-License-Identifier: MIT
"""Transforms: properties over random scans, and small cases by hand."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchsparse_lite import data
from torchsparse_lite.data.transforms import rotation_z

SEEDS = st.integers(0, 2**32 - 1)
ALL = [
    data.RotateZ(),
    data.Scale(),
    data.Flip(),
    data.Jitter(),
    data.DropPoints(0.5),
    data.LimitPoints(30),
    data.RangeCrop(1.0, 8.0),
    data.Compose([data.RotateZ(), data.Scale()]),
    data.GridSample(0.5),
]
KEEP_COUNT = [*ALL[:4], ALL[7]]
MOVE_RIGIDLY = [*ALL[:3], ALL[7]]  # the world points stay
MIXES = [data.LaserMix(), data.PolarMix([0, 1, 2]), data.InstancePaste([0, 1], [8], min_points=1)]


def scan_of(seed, count=None):
    """Points within 10 m; the label is also written into remission, the row into colours."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 80)) if count is None else count
    labels = rng.integers(0, 10, count)
    labels[rng.random(count) < 0.1] = data.IGNORE
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    pose = np.eye(4)
    pose[:3, :3] = rotation_z(rng.uniform(0, 6))
    pose[:3, 3] = rng.uniform(-5, 5, 3)
    return data.Scan(
        xyz=rng.uniform(-10, 10, (count, 3)).astype(np.float32),
        remission=(labels / 255).astype(np.float32),
        labels=labels,
        instances=(labels % 4).astype(np.int32),
        name=f"scan {seed}",
        pose=pose,
        colors=np.repeat(np.arange(count, dtype=np.float32)[:, None] / 255, 3, axis=1),
        normals=normals.astype(np.float32),
    )


def rng_of(seed):
    return np.random.default_rng(seed)


def same(one, two):
    for name in ("xyz", "remission", "labels", "instances", "colors", "normals", "pose"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def world(scan):
    return scan.xyz.astype(np.float64) @ scan.pose[:3, :3].T + scan.pose[:3, 3]


def check_labels_travel(scan):
    np.testing.assert_array_equal(scan.labels, np.round(scan.remission * 255))
    assert scan.labels.dtype == np.int64
    assert scan.xyz.dtype == scan.remission.dtype == np.float32
    assert scan.instances.dtype == np.int32


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
@given(seed=SEEDS)
def test_labels_travel_and_seeds_decide(transform, seed):
    scan = scan_of(seed)
    before = {name: getattr(scan, name).copy() for name in ("xyz", "labels", "pose")}
    moved = transform(scan, rng_of(seed))
    check_labels_travel(moved)
    same(moved, transform(scan, rng_of(seed)))
    assert moved.name == scan.name
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(scan, name), value)


@pytest.mark.parametrize("transform", KEEP_COUNT, ids=lambda t: type(t).__name__)
@given(seed=SEEDS)
def test_no_point_is_lost(transform, seed):
    scan = scan_of(seed)
    moved = transform(scan, rng_of(seed))
    assert len(moved) == len(scan)
    np.testing.assert_array_equal(moved.labels, scan.labels)


@pytest.mark.parametrize("transform", MOVE_RIGIDLY, ids=lambda t: type(t).__name__)
@given(seed=SEEDS)
def test_world_points_and_normals_stay_true(transform, seed):
    """The pose undoes what the transform did; angles between points and normals are kept."""
    scan = scan_of(seed)
    moved = transform(scan, rng_of(seed))
    np.testing.assert_allclose(world(moved), world(scan), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(moved.normals, axis=1), 1, atol=1e-5)
    length = np.linalg.norm(scan.xyz, axis=1), np.linalg.norm(moved.xyz, axis=1)
    cosine = (scan.xyz * scan.normals).sum(1) / np.maximum(length[0], 1e-3)
    moved_cosine = (moved.xyz * moved.normals).sum(1) / np.maximum(length[1], 1e-3)
    np.testing.assert_allclose(moved_cosine, cosine, atol=2e-3)


@given(seed=SEEDS, angle=st.floats(-10, 10))
def test_a_rotation_and_its_inverse(seed, angle):
    scan = scan_of(seed)
    there = data.RotateZ(angle, angle)(scan, rng_of(0))
    back = data.RotateZ(-angle, -angle)(there, rng_of(0))
    np.testing.assert_allclose(back.xyz, scan.xyz, atol=1e-5)
    np.testing.assert_allclose(back.pose, scan.pose, atol=1e-9)
    np.testing.assert_array_equal(there.xyz[:, 2], scan.xyz[:, 2])


def test_by_hand():
    scan = data.Scan(np.array([[1, 2, 3]], np.float32), np.ones(1, np.float32))
    turned = data.RotateZ(np.pi / 2, np.pi / 2)(scan, rng_of(0))
    np.testing.assert_allclose(turned.xyz, [[-2, 1, 3]], atol=1e-6)
    np.testing.assert_allclose(data.Scale(2, 2)(scan, rng_of(0)).xyz, [[2, 4, 6]])
    np.testing.assert_allclose(data.Flip(1, 0)(scan, rng_of(0)).xyz, [[-1, 2, 3]])
    np.testing.assert_allclose(data.Flip(0, 1)(scan, rng_of(0)).xyz, [[1, -2, 3]])
    assert len(data.RangeCrop(0, 3.7)(scan, rng_of(0))) == 0  # its distance is 3.742
    assert len(data.RangeCrop(3.7, 3.8)(scan, rng_of(0))) == 1
    assert turned.pose is None


@given(seed=SEEDS)
def test_jitter_is_bounded(seed):
    scan = scan_of(seed)
    moved = data.Jitter(0.03, 0.05)(scan, rng_of(seed))
    assert np.abs(moved.xyz - scan.xyz).max(initial=0) <= 0.05 + 1e-5


def test_point_drop_and_limit():
    scan = scan_of(1, 5000)
    dropped = data.DropPoints(1.0)(scan, rng_of(3))
    share = rng_of(3).uniform(0, 1)
    assert abs(len(dropped) / 5000 - (1 - share)) < 0.03
    limited = data.LimitPoints(700)(scan, rng_of(0))
    assert len(limited) == 700
    rows = np.round(limited.colors[:, 0] * 255).astype(int)
    assert (np.diff(rows) > 0).all()  # order stays, no point twice


@given(seed=SEEDS, size=st.sampled_from([0.3, 2.0, 7.0]))
def test_grid_sample_keeps_one_point_of_each_cell(seed, size):
    scan = scan_of(seed)
    kept = data.GridSample(size)(scan, rng_of(seed))

    def cells(xyz):
        return {tuple(cell) for cell in np.floor(xyz / np.float32(size)).astype(int).tolist()}

    assert cells(kept.xyz) == cells(scan.xyz)
    assert len(kept) == len(cells(scan.xyz))
    rows = np.round(kept.colors[:, 0] * 255).astype(int)
    assert (np.diff(rows) > 0).all()


def test_grid_sample_draws_among_the_points_of_a_cell():
    scan = scan_of(1, 10)
    one_cell = dataclasses.replace(scan, xyz=scan.xyz + np.float32(20))
    drawn = [float(data.GridSample(50.0)(one_cell, rng_of(k)).colors[0, 0]) for k in range(300)]
    _, counts = np.unique(drawn, return_counts=True)
    assert len(counts) == 10
    assert counts.min() > 10


# ---- take, concat


@given(seed=SEEDS)
def test_take_and_concat(seed):
    scan = scan_of(seed)
    mask = rng_of(seed).random(len(scan)) < 0.5
    both = scan.take(mask).concat(scan.take(~mask))
    assert len(both) == len(scan)
    order = np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)])
    same(both, scan.take(order))
    same(data.Scan.concat(scan), scan)


def test_concat_fills_what_is_missing():
    plain = data.Scan(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    scan = replace(scan_of(0, 3), colors=None, normals=None)
    both = scan.concat(plain)
    assert both.labels[3:].tolist() == [255, 255]
    assert both.instances[3:].tolist() == [0, 0]
    assert plain.concat(plain).labels is None


# ---- mixing


@pytest.mark.parametrize("mix", MIXES, ids=lambda m: type(m).__name__)
@given(seed=SEEDS)
def test_mixing_carries_labels_and_is_seeded(mix, seed):
    scan, other = scan_of(seed), scan_of(seed + 1)
    mixed = mix(scan, other, rng_of(seed))
    check_labels_travel(mixed)
    same(mixed, mix(scan, other, rng_of(seed)))
    assert mixed.name == scan.name
    np.testing.assert_array_equal(mixed.pose, scan.pose)


@given(seed=SEEDS)
def test_lasermix_shares_every_point_out(seed):
    """The two scans mixed both ways hold each point of both once."""
    scan, other = scan_of(seed), scan_of(seed + 1)
    one = data.LaserMix()(scan, other, rng_of(seed))
    two = data.LaserMix()(other, scan, rng_of(seed))
    assert len(one) + len(two) == len(scan) + len(other)
    found = np.concatenate([one.xyz, two.xyz])
    wanted = np.concatenate([scan.xyz, other.xyz])
    np.testing.assert_array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)])


def test_lasermix_areas_by_hand():
    """Two areas over -25..3 degrees meet at -11; outside, the outer areas reach on."""
    inclination = np.deg2rad([-60, -20, -12, -10, 0, 40])
    xyz = np.stack([np.cos(inclination), 0 * inclination, np.sin(inclination)], 1)
    scan = data.Scan(xyz.astype(np.float32), np.zeros(6, np.float32))
    other = replace(scan, remission=np.ones(6, np.float32))
    mixed = data.LaserMix((2,))(scan, other, rng_of(0))
    assert mixed.remission.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(mixed.xyz, scan.xyz)


@given(seed=SEEDS)
def test_polarmix_counts(seed):
    """Without swap: all of one, and three copies of the other's things, their range kept."""
    scan, other = scan_of(seed), scan_of(seed + 1)
    mixed = data.PolarMix([0, 1], swap_probability=0.0)(scan, other, rng_of(seed))
    things = other.take(np.isin(other.labels, [0, 1]))
    assert len(mixed) == len(scan) + 3 * len(things)
    same(mixed.take(np.arange(len(scan))), scan)
    pasted = mixed.xyz[len(scan) :].reshape(3, len(things), 3)
    np.testing.assert_array_equal(pasted[0], things.xyz)
    for copy in pasted:
        radius = np.linalg.norm(things.xyz, axis=1)
        np.testing.assert_allclose(np.linalg.norm(copy, axis=1), radius, atol=1e-4)


@given(seed=SEEDS)
def test_polarmix_swaps_a_half_circle(seed):
    scan, other = scan_of(seed, 400), scan_of(seed + 1, 400)
    mixed = data.PolarMix([], swap_probability=1.0)(scan, other, rng_of(seed))
    own = {row.tobytes() for row in scan.xyz}
    is_own = np.array([row.tobytes() in own for row in mixed.xyz])
    azimuth = np.arctan2(mixed.xyz[:, 1], mixed.xyz[:, 0])
    start = rng_of(seed).uniform(-np.pi, np.pi)
    inside = np.mod(azimuth - start, 2 * np.pi) < np.pi
    np.testing.assert_array_equal(inside, ~is_own)


def street(seed=0):
    """Ground at z = -1.7 with a wall, everywhere within 20 m."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-20, 20, (6000, 2)), np.full(6000, -1.7)])
    wall = np.column_stack([rng.uniform(-20, 0, (500, 2)), rng.uniform(-1.7, 2, 500)])
    xyz = np.concatenate([ground, wall]).astype(np.float32)
    labels = np.repeat([8, 12], [6000, 500])
    return data.Scan(
        xyz, np.zeros(6500, np.float32), labels, np.zeros(6500, np.int32), pose=np.eye(4)
    )


def things(height=-5.0):
    """Two instances of class 5, 1 m tall, hovering at ``height``, and one of class 6."""
    rng = np.random.default_rng(1)
    boxes = [rng.uniform(0, (0.5, 0.5, 1.0), (40, 3)) + np.array([x, 3, height]) for x in (4, 6, 8)]
    xyz = np.concatenate(boxes).astype(np.float32)
    labels, instances = np.repeat([5, 5, 6], 40), np.repeat([3, 4, 3], 40).astype(np.int32)
    return data.Scan(xyz, np.ones(120, np.float32), labels, instances, pose=np.eye(4))


def test_instances_are_pasted_on_the_ground():
    scan, other = street(), things()
    paste = data.InstancePaste([5], [8], max_instances=9)
    counts = set()
    for seed in range(20):
        mixed = paste(scan, other, rng_of(seed))
        pasted = mixed.take(np.arange(len(scan), len(mixed)))
        same(mixed.take(np.arange(len(scan))), scan)
        assert set(pasted.labels.tolist()) == {5}
        assert 0 not in pasted.instances
        counts.add(len(pasted))
        for instance in np.unique(pasted.instances):
            rows = pasted.instances == instance
            assert rows.sum() == 40
            assert abs(pasted.xyz[rows, 2].min() + 1.7) < 1e-4
            low, high = pasted.xyz[rows].min(0), pasted.xyz[rows].max(0)
            inside = ((scan.xyz >= low) & (scan.xyz <= high)).all(1) & (scan.labels == 12)
            assert not inside.any()
    assert counts == {40, 80}


def test_nothing_is_pasted_where_it_cannot_stand():
    other = things()
    for scan, paste in (
        (street(), data.InstancePaste([5], ground=[9])),  # no ground of that class
        (street(), data.InstancePaste([7], ground=[8])),  # no such instance
        (street(), data.InstancePaste([5], ground=[8], min_points=41)),
    ):
        same(paste(scan, other, rng_of(0)), scan)


def test_instances_of_both_scans_stay_apart():
    scan, other = things(0.0), things(0.0)
    mixed = data.PolarMix([5, 6], swap_probability=0, copies=0)(scan, other, rng_of(0))
    keys = set(zip(mixed.labels.tolist(), mixed.instances.tolist(), strict=True))
    assert len(keys) == 6


# ---- samples: seeds decide, whatever the process


class Table(data.ScanDataset):
    """Six random scans; enough of a data set for samples."""

    def __init__(self):
        super().__init__(".", card="semantickitti")
        self.names = [str(n) for n in range(6)]

    def read(self, name):
        return scan_of(int(name), 60)


def test_samples_depend_on_seed_epoch_and_index():
    samples = data.SegmentationSamples(Table(), ALL[:5], seed=7, mix=MIXES[:2])
    first = samples[2]["points"].feats
    assert first.equal(samples[2]["points"].feats)
    assert first.equal(samples[-4]["points"].feats)
    samples.set_epoch(1)
    assert samples.epoch == 1
    assert not first.equal(samples[2]["points"].feats)
    samples.set_epoch(0)
    assert first.equal(samples[2]["points"].feats)
    other = data.SegmentationSamples(Table(), ALL[:5], seed=8, mix=MIXES[:2])
    assert not first.equal(other[2]["points"].feats)


def test_mixing_happens_as_often_as_told():
    counts = [
        sum(
            samples.scan(index).xyz.shape[0] != 60
            for epoch in range(50)
            for index in range(6)
            if samples.set_epoch(epoch) is None
        )
        for samples in (
            data.SegmentationSamples(Table(), mix=MIXES[1:2], mix_probability=share)
            for share in (0.0, 0.3, 1.0)
        )
    ]
    assert counts[0] == 0
    assert 60 < counts[1] < 120
    assert counts[2] > 290


def test_points_of_a_scan():
    scan = scan_of(3, 20)
    points = data.points_of(scan)
    np.testing.assert_array_equal(points.xyz.numpy(), scan.xyz)
    np.testing.assert_array_equal(points.feats[:, :3].numpy(), scan.xyz)
    np.testing.assert_array_equal(points.feats[:, 3].numpy(), scan.remission)
    assert data.points_of(scan, ["xyz", "colors", "normals"]).num_channels == 9
    empty = data.points_of(scan.take(np.zeros(20, bool)))
    assert len(empty) == 0
    assert empty.batch_size == 1
