# SPDX-License-Identifier: MIT
"""Families 1 to 8 of cases that TorchSparse's own tests leave out, replayed against dense torch.

The sharp edges of the same dossier are in ``test_torchsparse_edges.py``; family 9 (weight import)
is case 22 of ``test_case_bank.py``.
"""

from __future__ import annotations

import itertools

import clouds
import harness
import numpy as np
import oracle
import pytest
import torch

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

SHAPE = (5, 5, 5)


def run_against_dense(
    device, kernel, stride, padding, *, c_in=16, c_out=32, batch=1, dtype=torch.float32, num=20
):
    """Forward and gradients of one strided or stride-1 convolution on a small box."""
    coords = clouds.box_coords(SHAPE, num, batch_size=batch, seed=kernel_seed(kernel))
    weight = harness.random_weight(kernel, c_in, c_out).clamp(-1, 1)
    bias = clouds.random_values(c_out, seed=2)
    x = harness.sparse(
        coords, c_in, dtype=dtype, device=device, spatial_shape=SHAPE, batch_size=batch
    )
    sites = oracle.coarse_sites(coords, kernel, stride, 1, padding, spatial_shape=SHAPE)
    grad = clouds.random_values(len(sites), c_out, seed=3)
    weight, bias = weight.to(dtype).double(), bias.to(dtype).double()
    expected = harness.dense_reference(
        harness.dense_conv(kernel, stride, 1, padding),
        coords,
        x.feats,
        sites,
        weight,
        bias,
        grad.to(dtype).double(),
        shape=SHAPE,
        batch_size=batch,
    )
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "submanifold": False}
    actual = harness.evaluate(x, sites, weight, bias, grad, **options)
    harness.compare(actual, expected, dtype)


def kernel_seed(kernel):
    return sum(oracle.triple(kernel))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product((2, 3, 5), (1, 2, 3))))
@pytest.mark.parametrize("batch", [1, 3])
def test_family_1_the_nine_cases(device, kernel, stride, dtype, batch):
    """k x s of their test_single_layer, each judged alone and not by the average of eighteen."""
    padding = (kernel - 1) // 2 if kernel % 2 else 0
    run_against_dense(device, kernel, stride, padding, dtype=dtype, batch=batch)


CHANNELS = (1, 3, 4, 5, 8, 16, 31, 64)


@pytest.mark.parametrize(("c_in", "c_out"), list(itertools.product(CHANNELS, CHANNELS)))
def test_family_1_channel_tails(device, c_in, c_out):
    """All pairs of odd and even channel counts."""
    run_against_dense(device, 3, 2, 1, c_in=c_in, c_out=c_out)


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        *itertools.product(((3, 1, 3), (1, 3, 3), (3, 1, 1), (1, 3, 1)), (1, (1, 2, 1), (2, 2, 1))),
        (1, 2),
        (4, 1),
        (4, 2),
        (5, 1),
        (5, 2),
        (7, 1),
    ],
)
def test_family_2_kernels(device, kernel, stride):
    """Asymmetric kernels, k1 s2, k4 with its anchor, and kernel volumes beyond one mask word."""
    padding = oracle.same_padding(kernel)
    run_against_dense(device, kernel, stride, padding, c_in=4, c_out=5, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": 2, "padding": 1, "transposed": True},
        {"stride": 2, "padding": 1, "transposed": True, "generative": True},
    ],
)
def test_family_3_gradients_in_train_and_eval_mode(device, training, options):
    """Input, weight and bias gradients of the module equal the oracle's in either mode."""
    coords = clouds.signed_coords(60, seed=1)
    stride = 2 if options.get("generative") else 1
    x = harness.sparse(coords, 4, device=device, stride=stride)
    layer = tsl.nn.Conv3d(4, 5, 3, **options).to(device).double().train(training)
    if options.get("transposed") and not options.get("generative"):
        x = tsf.conv3d(
            x, harness.random_weight(3, 4, 4).to(device), kernel_size=3, stride=2, padding=1
        )
    feats = x.feats.detach().clone().requires_grad_()
    y = layer(x.replace_feats(feats))
    geometry = (3, options.get("stride", 1), 1, 1)
    if options.get("transposed"):
        pairs = oracle.pairs_of(y.coords.cpu(), x.coords.cpu(), *geometry)
        pairs = oracle.transpose_pairs(pairs)
    else:
        pairs = oracle.pairs_of(x.coords.cpu(), y.coords.cpu(), *geometry)
    grad = clouds.random_values(*y.shape, seed=3)
    y.feats.backward(grad.to(device))
    weight = layer.weight.detach().cpu()
    bias = layer.bias.detach().cpu()
    expected = harness.reference(pairs, feats.detach().cpu(), len(y), weight, bias, grad)
    actual = (y.feats, feats.grad, layer.weight.grad, layer.bias.grad)
    harness.compare(actual, expected, torch.float64)


@pytest.mark.parametrize("extent", [7, 8])
@pytest.mark.parametrize("shape", [True, False])
def test_family_4_round_trip_of_a_unet(device, extent, shape):
    """k2 s2 twice and back with odd and even largest coordinates: nothing lost at the border.

    With an odd spatial shape the last plane has no coarse site, as in dense torch; without a shape
    every voxel is reached.
    """
    coords = clouds.solid_coords((extent,) * 3)
    options = {"spatial_shape": (extent,) * 3} if shape else {}
    x = harness.sparse(coords, 3, device=device, **options)
    weight = torch.ones(8, 3, 3, dtype=torch.float64, device=device)
    down = {"kernel_size": 2, "stride": 2}
    one = tsf.conv3d(x, weight, **down)
    two = tsf.conv3d(one, weight, **down)
    extent_1 = extent // 2 if shape else (extent + 1) // 2
    extent_2 = extent_1 // 2 if shape else (extent_1 + 1) // 2
    assert (len(one), len(two)) == (extent_1**3, extent_2**3)
    up = tsf.conv3d(two.replace_feats(torch.ones_like(two.feats)), weight, transposed=True, **down)
    top = tsf.conv3d(up, weight, transposed=True, **down)
    assert torch.equal(top.coords, x.coords)
    reached = (top.feats != 0).all(1).reshape(extent, extent, extent)
    whole = min(4 * extent_2, extent)
    assert reached[:whole, :whole, :whole].all()
    assert int(reached.sum()) == whole**3


def test_family_4_batch_composition(device):
    """A sample's levels do not shrink or grow with the largest coordinate of its batch mates."""
    small = clouds.box_coords((5, 5, 5), 40, seed=1)
    large = clouds.box_coords((12, 12, 12), 80, seed=2) + torch.tensor(
        [1, 0, 0, 0], dtype=torch.int32
    )
    weight = harness.random_weight(2, 3, 3).to(device)
    alone = harness.sparse(small, 3, device=device)
    feats = torch.cat([alone.feats, clouds.random_values(len(large), 3).to(device)])
    mixed = tsl.SparseTensor(feats, torch.cat([small, large]).to(device))
    for _ in range(3):
        alone = tsf.conv3d(alone, weight, kernel_size=2, stride=2)
        mixed = tsf.conv3d(mixed, weight, kernel_size=2, stride=2)
        own = mixed.decompose()[0]
        assert torch.equal(own.coords, alone.coords)
        assert torch.equal(own.feats, alone.feats)


def test_family_5_two_kernel_sizes_around_a_downsample(device):
    """k3, then k2 s2, then k5 on the first tensor: the same as k5 on a fresh tensor (recipe R1)."""
    coords = clouds.signed_coords(100, seed=3)
    x = harness.sparse(coords, 3, device=device)
    fresh = harness.sparse(coords, 3, device=device)
    large = harness.random_weight(5, 3, 3).to(device)
    before = tsf.conv3d(x, harness.random_weight(3, 3, 3).to(device), kernel_size=3)
    down = tsf.conv3d(before, harness.random_weight(2, 3, 3).to(device), kernel_size=2, stride=2)
    tsf.conv3d(down, harness.random_weight(3, 3, 3).to(device), kernel_size=3)
    after = tsf.conv3d(x, large, kernel_size=5)
    assert torch.equal(after.feats, tsf.conv3d(fresh, large, kernel_size=5).feats)


def test_family_5_same_kernel_other_padding(device):
    """Two layers that differ in padding alone have their own sites and maps."""
    x = harness.sparse(clouds.signed_coords(100, seed=3), 3, device=device)
    weight = harness.random_weight(3, 3, 3).to(device)
    for padding in (0, 1, 2, 0):
        y = tsf.conv3d(x, weight, kernel_size=3, stride=2, padding=padding)
        sites = oracle.coarse_sites(x.coords.cpu(), 3, 2, 1, padding)
        assert clouds.site_set(y.coords.cpu()) == set(sites)
        pairs = oracle.pairs_of(x.coords.cpu(), y.coords.cpu(), 3, 2, 1, padding)
        expected = oracle.conv(x.feats.cpu(), weight.cpu(), pairs, len(y))
        clouds.assert_close(y.feats, expected, tolerance=1e-10)


@pytest.mark.parametrize("dilation", [2, 3])
def test_family_6_dilation_is_not_ignored(device, dilation):
    """Dilated equals dense and differs from undilated (recipe R2)."""
    shape = (9, 9, 9)
    coords = clouds.box_coords(shape, 150, seed=5)
    x = harness.sparse(coords, 3, device=device, spatial_shape=shape)
    weight = harness.random_weight(3, 3, 4)
    y = tsf.conv3d(x, weight.to(device), kernel_size=3, dilation=dilation)
    grid = oracle.scatter_dense(coords, x.feats.cpu(), shape, 1)
    dense = harness.dense_submanifold(3, dilation)(grid, weight, None)
    clouds.assert_close(y.feats, oracle.gather_dense(dense, coords), tolerance=1e-10)
    plain = tsf.conv3d(x, weight.to(device), kernel_size=3)
    assert not torch.allclose(y.feats, plain.feats)


@pytest.mark.parametrize("kernel", [2, 3])
def test_family_6_generative_support(device, kernel):
    """k2 s2 and k3 s2 reach exactly the non-zero cells of dense ConvTranspose3d."""
    coords = clouds.box_coords(SHAPE, 15, seed=6)
    feats = torch.ones(15, 1, device=device)
    x = tsl.SparseTensor(feats, coords.to(device), spatial_shape=SHAPE, stride=2)
    weight = torch.ones(kernel**3, 1, 1)
    options = {"kernel_size": kernel, "stride": 2, "transposed": True, "generative": True}
    y = tsf.conv3d(x, weight.to(device), **options)
    grid = oracle.scatter_dense(coords, x.feats.cpu(), SHAPE, 1)
    dense = harness.dense_transposed(kernel, 2, 1, 0)(grid, weight, None)
    assert y.spatial_shape == tuple(dense.shape[2:])
    filled = [(0, *cell) for cell in dense[0, 0].nonzero().tolist()]
    assert clouds.site_set(y.coords.cpu()) == set(filled)
    clouds.assert_close(y.feats, oracle.gather_dense(dense, y.coords.cpu()), tolerance=1e-6)


@pytest.mark.parametrize("channels", [1, 5, 2000])
@pytest.mark.parametrize("reduce", ["mean", "sum", "max", "first"])
def test_family_7_voxelize(device, channels, reduce):
    """Against the reference; a mean stays within the range of its points (their issue 155)."""
    num = 300 if channels < 100 else 60
    coords = clouds.random_points(num, extent=1.5, batch_size=2, seed=channels)
    feats = clouds.random_values(num, channels, seed=1, dtype=torch.float32)
    points = tsl.PointTensor(feats, coords).to(device)
    voxels, index, counts = tsl.voxelize(points, 0.5, reduce=reduce)
    expected = oracle.voxelize(coords, feats, 0.5, reduce=reduce)
    assert clouds.site_set(voxels.coords.cpu()) == set(expected)
    assert len(voxels) == len(expected) < num
    for row, site in enumerate(oracle.sites_of(voxels.coords.cpu())):
        value, members = expected[site]
        assert counts[row] == len(members)
        assert (index[members] == row).all()
        clouds.assert_close(voxels.feats[row], value, tolerance=1e-5)
    if reduce == "mean":
        assert voxels.feats.max() <= feats.max()
        assert voxels.feats.min() >= feats.min()


@pytest.mark.parametrize("channels", [1, 5, 2000])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("anchor", ["corner", "center"])
@pytest.mark.parametrize("renormalize", [True, False])
def test_family_7_trilinear_devoxelize(device, channels, stride, anchor, renormalize):
    """Against the reference matrix, at stride 1 and 2, with voxels missing."""
    coords = clouds.signed_coords(300, low=-4, high=4, batch_size=2)
    points = clouds.random_points(100, batch_size=2, extent=2.5, dtype=torch.float64)
    x = harness.sparse(coords, channels, device=device, stride=stride)
    options = {"anchor": anchor, "renormalize": renormalize}
    matrix = oracle.trilinear(coords, points, 0.3, stride=stride, origin=(0.1, 0, 0), **options)
    query = tsl.PointTensor(torch.zeros(100, 1, dtype=torch.float64), points).to(device)
    out = tsl.devoxelize(x, query, 0.3, mode="trilinear", origin=(0.1, 0, 0), **options)
    clouds.assert_close(out, matrix @ x.feats.cpu().numpy(), tolerance=1e-9)
    if renormalize:
        ones = x.replace_feats(torch.ones_like(x.feats))
        total = tsl.devoxelize(ones, query, 0.3, mode="trilinear", origin=(0.1, 0, 0), **options)
        inside = torch.from_numpy(matrix.sum(1)) > 0
        clouds.assert_close(total[:, 0], inside.double(), tolerance=1e-12)


def test_family_7_nearest_devoxelize(device):
    """Each point gets its voxel's row at stride 1 and 2; points in no voxel get zeros."""
    coords = clouds.random_points(200, batch_size=2, extent=2.0)
    points = tsl.PointTensor(clouds.random_values(200, 3, dtype=torch.float32), coords).to(device)
    voxels, index, _ = tsl.voxelize(points, 0.5)
    assert torch.equal(tsl.devoxelize(voxels, points, 0.5, mode="nearest"), voxels.feats[index])
    coarse = tsf.avg_pool3d(voxels, kernel_size=2)
    parents = torch.cat([coords[:, :1], (coords[:, 1:] / 1.0).floor()], 1).int()
    rows = clouds.row_lookup(coarse.coords.cpu(), parents)
    assert torch.equal(
        tsl.devoxelize(coarse, points, 0.5, mode="nearest"), coarse.feats[rows.to(device)]
    )
    kept = voxels[voxels.coords[:, 1] >= 0]
    out = tsl.devoxelize(kept, points, 0.5, mode="nearest")
    assert (out[coords[:, 1] < 0] == 0).all()
    assert (out[coords[:, 1] >= 0] != 0).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_family_7_points_on_borders_find_their_own_voxel(dtype, precision):
    """Whole centimetres at 0.1 m: half of the points sit on a border, where rounding decides.

    Reading back in the precision that voxelize used finds every voxel again, and the coarse cell
    of a point is the cell of its voxel at every stride.
    """
    rng = np.random.default_rng(0)
    xyz = torch.from_numpy(rng.integers(-3000, 3000, (4000, 3)) / 100).to(dtype)
    points = tsl.PointTensor(clouds.random_values(4000, 2, dtype=torch.float32), xyz)
    voxels, index, _ = tsl.voxelize(points, 0.1, precision=precision)
    if precision == torch.float32 or dtype == torch.float64:
        own = voxels.coords[index][:, 1:].numpy()
        kind = np.float32 if precision == torch.float32 else np.float64
        assert (own == oracle.quantize(xyz.numpy(), 0.1, dtype=kind)).all()
    options = {"mode": "nearest", "precision": precision}
    assert torch.equal(tsl.devoxelize(voxels, points, 0.1, **options), voxels.feats[index])
    for step in (2, 3, 5):
        coarse = tsf.avg_pool3d(voxels, kernel_size=step)
        cells = voxels.coords[index]
        cells[:, 1:] = cells[:, 1:].div(step, rounding_mode="floor")
        rows = clouds.row_lookup(coarse.coords, cells)
        found = tsl.devoxelize(coarse, points, 0.1, **options)
        assert torch.equal(found, coarse.feats[rows]), f"stride {step}"


@pytest.mark.parametrize("anchor", ["corner", "center"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_family_7_trilinear_uses_the_voxel_of_every_point(dtype, precision, anchor):
    """Interpolating ones gives one at every point that was voxelized, on borders too."""
    rng = np.random.default_rng(2)
    xyz = torch.from_numpy(rng.integers(-3000, 3000, (4000, 3)) / 100).to(dtype)
    points = tsl.PointTensor(torch.ones(4000, 1), xyz)
    voxels = tsl.voxelize(points, 0.1, precision=precision).voxels
    for step in (1, 3):
        tensor = tsf.avg_pool3d(voxels, kernel_size=step)
        options = {"mode": "trilinear", "anchor": anchor, "precision": precision}
        ones = tsl.devoxelize(tensor, points, 0.1, **options)
        clouds.assert_close(ones, torch.ones(4000, 1), tolerance=1e-6)


def test_family_7_default_precisions_of_both_directions_agree():
    """float64 points through voxelize and devoxelize with nothing said: every point is found."""
    rng = np.random.default_rng(1)
    xyz = torch.from_numpy(rng.integers(-3000, 3000, (4000, 3)) / 100)
    points = tsl.PointTensor(clouds.random_values(4000, 2), xyz)
    voxels, index, _ = tsl.voxelize(points, 0.1)
    assert torch.equal(tsl.devoxelize(voxels, points, 0.1, mode="nearest"), voxels.feats[index])


@pytest.mark.parametrize("num", [0, 1, 127, 128, 129, 255, 256, 257])
def test_family_8_size_ladder(device, num):
    """Row counts around tile borders, forward and backward."""
    coords = clouds.signed_coords(num, low=-4, high=4, seed=num)
    x = harness.sparse(coords, 16, device=device)
    weight, bias = harness.random_weight(3, 16, 8), clouds.random_values(8, seed=2)
    pairs = oracle.pairs_of(coords, coords, 3, 1, 1, 1)
    grad = clouds.random_values(num, 8, seed=3)
    expected = harness.reference(pairs, x.feats.cpu(), num, weight, bias, grad)
    actual = harness.evaluate(x, oracle.sites_of(coords), weight, bias, grad, kernel_size=3)
    harness.compare(actual, expected, torch.float64)


def test_family_8_bounding_volume_beyond_31_bits(device):
    """Clusters at the corners of 2^18 cells per axis keep apart through stride 2 and back."""
    block = clouds.box_coords((4, 4, 4), 30, seed=1)
    corners = itertools.product((0, 1023), (-131072, 131068), (-131072, 131068), (-131072, 131068))
    parts = [block + torch.tensor(corner, dtype=torch.int32) for corner in corners]
    x = harness.sparse(torch.cat(parts), 3, device=device)
    x = x.replace_feats(x.feats[: len(block)].repeat(len(parts), 1))
    weight = harness.random_weight(2, 3, 3).to(device)
    y = tsf.conv3d(x, harness.random_weight(3, 3, 3).to(device), kernel_size=3)
    down = tsf.conv3d(y, weight, kernel_size=2, stride=2)
    up = tsf.conv3d(down, weight, kernel_size=2, stride=2, transposed=True)
    assert len(down) == len(parts) * len(oracle.coarse_sites(block, 2, 2))
    for tensor in (y, up):
        pieces = tensor.feats.reshape(len(parts), len(block), -1)
        assert torch.equal(pieces, pieces[:1].expand_as(pieces))
