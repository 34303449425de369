# SPDX-License-Identifier: MIT
"""The sharp edges of TorchSparse that can be provoked on a CPU; the number in a name is the edge.

Edges with their own place: 1, 2, 3 (families 5 and 6), 15 (case 23), 22 (``test_memory.py``),
16 (device guard, case 25). Edges 24 and 27 concern a tuner and GPU generations.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import clouds
import harness
import oracle
import pytest
import torch

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf


def test_01_dilation_is_part_of_the_map():
    """One manager, two dilations: two maps, each the oracle's."""
    x = harness.sparse(clouds.signed_coords(100), 2)
    for dilation in (1, 2, 1):
        geometry = tsl.ConvGeometry.same(kernel_size=3, dilation=dilation)
        found = harness.relation(x.manager.submanifold(x.level, geometry), x.coords, x.coords)
        assert found == harness.oracle_relation(x.coords, x.coords, 3, 1, dilation, dilation)


@pytest.mark.parametrize("order", list(itertools.permutations(["k3", "k2s2", "k5"])))
def test_02_no_order_of_layers_leaves_a_stale_table(order):
    """Three kernels from one tensor in every order give what fresh tensors give."""
    coords = clouds.signed_coords(80, seed=1)
    x = harness.sparse(coords, 3)
    options = {
        "k3": {"kernel_size": 3},
        "k2s2": {"kernel_size": 2, "stride": 2},
        "k5": {"kernel_size": 5},
    }
    for name in order:
        weight = harness.random_weight(options[name]["kernel_size"], 3, 3)
        shared = tsf.conv3d(x, weight, **options[name])
        fresh = tsf.conv3d(harness.sparse(coords, 3), weight, **options[name])
        assert torch.equal(shared.feats, fresh.feats)


def test_03_padding_is_part_of_the_map():
    """Geometries that differ in padding alone are different keys."""
    one = tsl.ConvGeometry(kernel_size=3, stride=2, padding=0)
    two = tsl.ConvGeometry(kernel_size=3, stride=2, padding=1)
    assert one != two
    assert len({one, two, tsl.ConvGeometry(3, 2, padding=(1, 1, 1))}) == 2


def test_04_border_voxels_of_odd_grids_survive(device):
    """No voxel is dropped at the largest coordinate when no spatial shape was given (273, 282)."""
    for y_shift in (0, 1):
        coords = clouds.solid_coords((5, 5, 5)) + torch.tensor([0, 0, y_shift, 0]).int()
        x = tsl.SparseTensor(torch.ones(125, 1, device=device), coords.to(device))
        y = tsf.sum_pool3d(x, kernel_size=2)
        assert y.feats.sum() == 125
        while len(y) > 1:
            y = tsf.sum_pool3d(y, kernel_size=2)
        assert y.feats.item() == 125


@pytest.mark.parametrize("kernel", [5, (3, 4, 3), (33, 1, 1), (1, 1, 64), (1, 65, 1)])
def test_05_every_tap_beyond_the_first_mask_word_acts(device, kernel):
    """Kernel volumes 125, 36, 33, 64, 65: one tap at a time is what the output must show."""
    size = oracle.triple(kernel)
    coords = clouds.solid_coords(size).to(device)
    x = tsl.SparseTensor(torch.ones(len(coords), 1, device=device), coords)
    volume = len(oracle.taps_of(kernel))
    options = {"kernel_size": kernel, "stride": size, "submanifold": False}
    everything = tsf.conv3d(x, torch.ones(volume, 1, 1, device=device), **options)
    assert everything.feats.tolist() == [[volume]]
    feats = torch.arange(1.0, volume + 1, device=device).reshape(-1, 1)
    for tap in range(volume):
        one = torch.zeros(volume, 1, 1, device=device)
        one[tap] = 1
        assert tsf.conv3d(x.replace_feats(feats), one, **options).feats.item() == tap + 1


def test_06_keys_keep_all_64_bits(device):
    """A grid of 4 x 2^14 x 2^14 x 2^10 cells after stride 2 passes 2^31 (239, 269, 303)."""
    shape = (2**15, 2**15, 2**11)
    block = clouds.box_coords((4, 4, 4), 30)
    far = torch.tensor([3, 2**15 - 4, 2**15 - 4, 2**11 - 4], dtype=torch.int32)
    middle = torch.tensor([1, 2**14, 2**14, 2**10], dtype=torch.int32)
    coords = torch.cat([block, block + middle, block + far])
    x = harness.sparse(coords, 2, device=device, spatial_shape=shape, batch_size=4)
    y = tsf.conv3d(x, harness.random_weight(2, 2, 2).to(device), kernel_size=2, stride=2)
    sites = oracle.coarse_sites(coords, 2, 2)
    pairs = oracle.pairs_of(coords, sites, 2, 2)
    expected = oracle.conv(x.feats.cpu(), harness.random_weight(2, 2, 2), pairs, len(sites))
    clouds.assert_close(harness.in_site_order(y, sites), expected, tolerance=1e-10)


@pytest.mark.parametrize("order", ["shuffled", "morton"])
def test_08_both_searches_honour_padding(order):
    """k3 s2 p0, where two map modes disagree upstream: here hash and Morton rows agree."""
    coords = clouds.signed_coords(150, batch_size=2, seed=4)
    if order == "morton":
        coords = coords[clouds.morton_order(coords)]
    x = harness.sparse(coords, 2)
    for padding in (0, 1):
        geometry = tsl.ConvGeometry(kernel_size=3, stride=2, padding=padding)
        coarse = x.manager.strided(x.level, geometry, rule="full")
        assert clouds.site_set(coarse.coords) == set(oracle.coarse_sites(coords, 3, 2, 1, padding))
        found = harness.relation(
            x.manager.kernel_map(x.level, coarse, geometry), coords, coarse.coords
        )
        assert found == harness.oracle_relation(coords, coarse.coords, 3, 2, 1, padding)


def test_09_generative_output_grows(device):
    """The reached box is larger than the input's, never clamped into a shrunken one (299, 358)."""
    coords = clouds.solid_coords((4, 4, 4)).to(device)
    options = {"spatial_shape": (4, 4, 4), "stride": 2}
    x = tsl.SparseTensor(torch.ones(64, 1, device=device), coords, **options)
    weight = torch.ones(8, 1, 1, device=device)
    y = tsf.conv3d(x, weight, kernel_size=2, stride=2, transposed=True, generative=True)
    assert len(y) == 8**3
    assert y.spatial_shape == (8, 8, 8)


def test_10_the_batch_column_is_the_first_everywhere():
    """dense, decompose, global pools, collate and voxelize all read (batch, x, y, z)."""
    x = tsl.SparseTensor(
        torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 1, 2, 3], [1, 3, 2, 1]]).int()
    )
    dense = x.dense(shape=(4, 4, 4))
    assert dense.shape == (2, 1, 4, 4, 4)
    assert (dense[0, 0, 1, 2, 3], dense[1, 0, 3, 2, 1], dense.sum()) == (1, 2, 3)
    assert [part.coords.tolist() for part in x.decompose()] == [[[0, 1, 2, 3]], [[0, 3, 2, 1]]]
    assert tsf.global_sum_pool(x).tolist() == [[1.0], [2.0]]
    assert torch.equal(tsl.sparse_collate(x.decompose()).coords, x.coords)
    points = tsl.PointTensor(x.feats, x.coords + torch.tensor([0, 0.5, 0.5, 0.5]))
    assert clouds.site_set(tsl.voxelize(points, 1.0).voxels.coords) == clouds.site_set(x.coords)


def test_11_devoxelize_gradient_reads_the_point(device):
    """More points than voxels and the reverse; points outside contribute nothing."""
    coords = clouds.signed_coords(30, low=-2, high=2)
    for num in (7, 200):
        points = clouds.random_points(num, extent=3.0, dtype=torch.float64)
        x = harness.sparse(coords, 3, device=device)
        feats = x.feats.clone().requires_grad_()
        query = tsl.PointTensor(torch.zeros(num, 1, dtype=torch.float64), points).to(device)
        out = tsl.devoxelize(x.replace_feats(feats), query, 1.0, mode="trilinear")
        grad = clouds.random_values(num, 3, seed=2)
        out.backward(grad.to(device))
        matrix = oracle.trilinear(coords, points, 1.0)
        clouds.assert_close(feats.grad, matrix.T @ grad.numpy(), tolerance=1e-10)


def test_12_collate_and_cat_keep_the_shape():
    options = {"spatial_shape": (9, 9, 9)}
    parts = [harness.sparse(clouds.box_coords((9, 9, 9), 20, seed=s), 2, **options) for s in (1, 2)]
    both = tsl.sparse_collate(parts)
    assert both.spatial_shape == (9, 9, 9)
    assert both.batch_size == 2
    assert tsl.cat([both, both]).spatial_shape == (9, 9, 9)
    assert (both + both).spatial_shape == (9, 9, 9)


def test_12_adding_tensors_of_other_support_is_a_union():
    """Coordinates are compared, not assumed: the union holds both and new maps fit it."""
    a = harness.sparse(clouds.signed_coords(40, seed=1), 2)
    b = harness.sparse(clouds.signed_coords(40, seed=2), 2)
    total = a + b
    assert clouds.site_set(total.coords) == clouds.site_set(a.coords) | clouds.site_set(b.coords)
    table = {site: torch.zeros(2, dtype=torch.float64) for site in oracle.sites_of(total.coords)}
    for part in (a, b):
        for site, row in zip(oracle.sites_of(part.coords), part.feats, strict=True):
            table[site] = table[site] + row
    assert torch.equal(total.feats, torch.stack(list(table.values())))
    weight = harness.random_weight(3, 2, 2)
    fresh = tsl.SparseTensor(total.feats, total.coords)
    assert torch.equal(
        tsf.conv3d(total, weight, kernel_size=3).feats,
        tsf.conv3d(fresh, weight, kernel_size=3).feats,
    )


def test_13_float32_is_ieee_on_a_cpu():
    """A sum of 6,912 products keeps float32's precision, a hundred times what TF32 would leave."""
    coords = clouds.solid_coords((8, 8, 8))
    x = harness.sparse(coords, 256, dtype=torch.float32)
    weight = harness.random_weight(3, 256, 8, dtype=torch.float32)
    y = tsf.conv3d(x, weight, kernel_size=3)
    exact = tsf.conv3d(x.double(), weight.double(), kernel_size=3)
    clouds.assert_close(y.feats, exact.feats, tolerance=1e-5)


def test_14_batch_index_beyond_the_batch_size_is_refused():
    coords = torch.tensor([[0, 0, 0, 0], [2, 0, 0, 0]], dtype=torch.int32)
    with pytest.raises(ValueError, match="batch"):
        tsl.SparseTensor(torch.ones(2, 1), coords, batch_size=2)
    assert tsl.SparseTensor(torch.ones(2, 1), coords).batch_size == 3


def test_14_dense_never_writes_out_of_bounds():
    x = tsl.SparseTensor(torch.ones(1, 1), torch.tensor([[0, 5, 0, 0]], dtype=torch.int32))
    with pytest.raises(ValueError, match="dense"):
        x.dense(shape=(5, 5, 5))
    assert x.dense(shape=(5, 5, 5), origin=(5, 0, 0))[0, 0, 0, 0, 0] == 1


def test_17_channel_mismatch_is_found_in_the_forward_pass():
    x = harness.sparse(clouds.signed_coords(20), 5)
    with pytest.raises(ValueError, match="5"):
        tsf.conv3d(x, harness.random_weight(3, 4, 8), kernel_size=3)


def test_18_a_frozen_eval_layer_and_a_training_layer_share_a_map():
    """Gradients flow through both whichever ran first, under no_grad or not."""
    x = harness.sparse(clouds.signed_coords(60), 4)
    frozen = tsl.nn.Conv3d(4, 4, 3).double().eval().requires_grad_(False)
    train = tsl.nn.Conv3d(4, 4, 3).double().train()
    with torch.no_grad():
        frozen(x)
    feats = x.feats.clone().requires_grad_()
    y = train(frozen(x.replace_feats(feats)))
    y.feats.square().sum().backward()
    assert feats.grad.abs().sum() > 0
    assert train.weight.grad.abs().sum() > 0
    geometry = tsl.ConvGeometry.same(kernel_size=3, dilation=1)
    first = x.manager.submanifold(x.level, geometry)
    assert y.manager.submanifold(y.level, geometry) is first


def test_19_more_outputs_than_twice_the_inputs(device):
    """k3 s2 p1 on isolated odd voxels has eight outputs each: no fixed table is large enough."""
    grid = torch.cartesian_prod(*[torch.arange(-40, 40, 8)] * 3) + 1
    coords = torch.cat([torch.zeros(len(grid), 1), grid], 1).int().to(device)
    x = tsl.SparseTensor(torch.ones(len(coords), 1, device=device), coords)
    weight = torch.ones(27, 1, 1, device=device)
    y = tsf.conv3d(x, weight, kernel_size=3, stride=2, padding=1)
    assert len(y) == 8 * len(x)
    assert torch.equal(y.feats, torch.ones_like(y.feats))


def test_20_a_decoder_need_not_mirror_the_encoder(device):
    """Transposed with another kernel than the encoder's, onto skipped levels, and onto a target."""
    coords = clouds.signed_coords(100, low=-8, high=8, seed=6)
    x = harness.sparse(coords, 3, device=device)
    down = tsf.conv3d(x, harness.random_weight(2, 3, 3).to(device), kernel_size=2, stride=2)
    four = tsf.conv3d(down, harness.random_weight(2, 3, 3).to(device), kernel_size=2, stride=2)
    weight = harness.random_weight(3, 3, 3)
    options = {"kernel_size": 3, "stride": 2, "padding": 1, "transposed": True}
    up = tsf.conv3d(down, weight.to(device), **options)
    assert torch.equal(up.coords, x.coords)
    pairs = oracle.pairs_of(coords, down.coords.cpu(), 3, 2, 1, 1)
    expected = oracle.conv(down.feats.cpu(), weight, oracle.transpose_pairs(pairs), len(x))
    clouds.assert_close(up.feats, expected, tolerance=1e-10)
    big = harness.random_weight(4, 3, 3).to(device)
    skipped = tsf.conv3d(four, big, kernel_size=4, stride=4, transposed=True)
    assert torch.equal(skipped.coords, x.coords)
    other = harness.sparse(clouds.signed_coords(50, low=-8, high=8, seed=7), 1, device=device)
    for target in (other, other.level):
        onto = tsf.conv3d(down, weight.to(device), target=target, **options)
        assert torch.equal(onto.coords, other.coords)


def test_21_many_channels_and_half_means(device):
    """2,000 channels through voxelize and back; a half mean is the rounded float32 mean."""
    coords = clouds.random_points(50, extent=1.0)
    feats = clouds.random_values(50, 2000, dtype=torch.float32)
    wide = tsl.voxelize(tsl.PointTensor(feats, coords).to(device), 0.5).voxels
    assert wide.num_channels == 2000
    thousand = torch.full((4096, 1), 1000.0, dtype=torch.float16, device=device)
    points = tsl.PointTensor(thousand, torch.zeros(4096, 4, device=device))
    assert tsl.voxelize(points, 1.0).voxels.feats.item() == 1000.0


def test_23_layers_do_not_change_each_other():
    """Running one layer leaves another's settings and results as they were, to the bit."""
    x = harness.sparse(clouds.signed_coords(60), 4)
    a, b = tsl.nn.Conv3d(4, 4, 3).double(), tsl.nn.Conv3d(4, 4, 3, dilation=2).double()
    settings = [dict(vars(layer)) for layer in (a, b)]
    first = a(x).feats
    b(x)
    tsl.nn.Conv3d(4, 4, 3, stride=2).double().eval()(x)
    assert torch.equal(a(x).feats, first)
    assert [sorted(vars(layer)) for layer in (a, b)] == [sorted(s) for s in settings]


def test_25_import_touches_no_gpu_and_needs_only_torch_and_numpy():
    """A fresh process without visible devices imports, and no third package comes along."""
    code = (
        "import sys, numpy, torch\n"
        "before = set(sys.modules)\n"
        "import torchsparse_lite\n"
        "assert not torch.cuda.is_initialized()\n"
        "from torchsparse_lite import nn\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "extra = {n for n in new if n not in sys.stdlib_module_names and not n.startswith('_')}\n"
        "print(sorted(extra - {'torch', 'numpy', 'torchsparse_lite'}))\n"
    )
    env = dict(os.environ, CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_26_operators_are_registered_with_torch():
    """They are torch operators with schemas and fake kernels, not bare functions."""
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("tsl::")]
    assert len(names) >= 10
    for name in ("sparse_conv", "segment_reduce", "interpolate", "unique_coords", "hash_lookup"):
        assert f"tsl::{name}" in names


PUBLIC = """
SparseTensor PointTensor CoordinateManager ConvGeometry KernelMap HashTable Voxelized voxelize
devoxelize sparse_quantize sparse_collate collate_fn cat nn __version__ has_cuda
"""
LAYERS = """
Conv3d MaxPool3d AvgPool3d SumPool3d GlobalMaxPool GlobalAvgPool GlobalSumPool Upsample Unpool3d
BatchNorm SyncBatchNorm GroupNorm InstanceNorm LayerNorm Linear Dropout ReLU LeakyReLU SiLU GELU ELU
Sigmoid Tanh Hardswish Sequential Identity fuse functional
"""


def test_28_public_names():
    """The names of the interface, and the columns and aliases that users rely on."""
    assert [name for name in PUBLIC.split() if not hasattr(tsl, name)] == []
    assert [name for name in LAYERS.split() if not hasattr(tsl.nn, name)] == []
    x = harness.sparse(clouds.signed_coords(5), 2)
    assert x.F is x.feats
    assert x.C is x.coords
    assert x.s == x.stride == (1, 1, 1)
    assert (len(x), x.shape, x.num_channels) == (5, (5, 2), 2)
