# SPDX-License-Identifier: MIT
"""One provocation per error message; each must read ``<function>: <argument> must be <rule>, ...``.

A row of a table is: name, exception, words that the message must hold, and the call that is wrong.
"""

from __future__ import annotations

import clouds
import harness
import numpy as np
import pytest
import torch
from house_form import provoke
from torch._subclasses.fake_tensor import FakeTensorMode

import torchsparse_lite as tsl
import torchsparse_lite.models
from torchsparse_lite import ops
from torchsparse_lite._native import C, has_cuda
from torchsparse_lite.nn import functional as tsf
from torchsparse_lite.ops.registry import _refuse_cuda
from torchsparse_lite.ops.scratch import scratch_on

NAN, INF = float("nan"), float("inf")


def coords_of(*sites, dtype=torch.int32):
    return torch.tensor(sites, dtype=dtype)


def tensor(*sites, **options):
    sites = sites or ((0, 0, 0, 0), (0, 1, 0, 0))
    return tsl.SparseTensor(torch.ones(len(sites), 2), coords_of(*sites), **options)


def points(*rows, feats=None):
    rows = torch.tensor(rows or [(0.0, 0.5, 0.5, 0.5), (0.0, 1.5, 0.5, 0.5)])
    return tsl.PointTensor(torch.ones(len(rows), 2) if feats is None else feats, rows)


def weight(volume=27, c_in=2, c_out=3, **options):
    return torch.ones(volume, c_in, c_out, **options)


def table(*rows):
    return pytest.mark.parametrize(
        ("kind", "words", "call"), [pytest.param(*row[1:], id=row[0]) for row in rows]
    )


def cuda(*shape, **options):
    """A tensor that says that it is on a GPU, without one."""
    with FakeTensorMode():
        return torch.ones(*shape, device="cuda", **options)


ONES = torch.ones(2, 2)
SITES = coords_of((0, 0, 0, 0), (0, 1, 0, 0))


@table(
    ("feats type", TypeError, ["feats"], lambda: tsl.SparseTensor([[1.0]], SITES[:1])),
    ("feats shape", ValueError, ["feats", "(2,)"], lambda: tsl.SparseTensor(ONES[0], SITES)),
    ("coords type", TypeError, ["coords"], lambda: tsl.SparseTensor(ONES, SITES.tolist())),
    ("coords shape", ValueError, ["coords", "4"], lambda: tsl.SparseTensor(ONES, SITES[:, 1:])),
    ("coords rank", ValueError, ["coords"], lambda: tsl.SparseTensor(ONES, SITES[0])),
    ("coords int64", TypeError, ["int32"], lambda: tsl.SparseTensor(ONES, SITES.long())),
    ("coords float", TypeError, ["int32"], lambda: tsl.SparseTensor(ONES, SITES.float())),
    ("rows", ValueError, ["2", "3"], lambda: tsl.SparseTensor(torch.ones(3, 2), SITES)),
    ("device", ValueError, ["device"], lambda: tsl.SparseTensor(ONES.to("meta"), SITES)),
    ("x high", ValueError, ["131071", "131072"], lambda: tensor((0, 131072, 0, 0))),
    ("z low", ValueError, ["-131072", "-131073"], lambda: tensor((0, 0, 0, -131073))),
    ("batch high", ValueError, ["batch", "1024"], lambda: tensor((1024, 0, 0, 0))),
    ("batch negative", ValueError, ["batch", "-1"], lambda: tensor((-1, 0, 0, 0))),
    ("batch size", ValueError, ["batch", "2"], lambda: tensor((2, 0, 0, 0), batch_size=2)),
    (
        "duplicates",
        ValueError,
        ["coords"],
        lambda: tensor((0, 1, 2, 3), (0, 0, 0, 0), (0, 1, 2, 3)),
    ),
    (
        "outside the shape",
        ValueError,
        ["spatial_shape"],
        lambda: tensor((0, 0, 4, 0), spatial_shape=(4, 4, 4)),
    ),
    (
        "below the shape",
        ValueError,
        ["spatial_shape"],
        lambda: tensor((0, 0, 0, -1), spatial_shape=(4, 4, 4)),
    ),
    ("stride zero", ValueError, ["stride", "0"], lambda: tensor(stride=0)),
    ("stride pair", ValueError, ["stride"], lambda: tensor(stride=(2, 2))),
    ("stride type", TypeError, ["stride"], lambda: tensor(stride=1.5)),
    ("stride types", TypeError, ["stride"], lambda: tensor(stride=(1, 2.0, 1))),
    ("stride text", TypeError, ["stride"], lambda: tensor(stride="2")),
    ("stride bool", TypeError, ["stride"], lambda: tensor(stride=True)),
    ("batch size high", ValueError, ["batch_size", "1024"], lambda: tensor(batch_size=2000)),
    ("stride tensor", TypeError, ["stride", "2."], lambda: tensor(stride=torch.tensor(2.0))),
    ("shape pair", ValueError, ["spatial_shape"], lambda: tensor(spatial_shape=(4, 4))),
    ("shape number", ValueError, ["spatial_shape", "three", "8"], lambda: tensor(spatial_shape=8)),
    ("shape type", TypeError, ["spatial_shape"], lambda: tensor(spatial_shape=(4, 4, 4.0))),
    ("shape negative", ValueError, ["spatial_shape"], lambda: tensor(spatial_shape=(4, -1, 4))),
    ("shape high", ValueError, ["2147483647"], lambda: tensor(spatial_shape=(4, 2**31, 4))),
    ("batch size negative", ValueError, ["batch_size"], lambda: tensor(batch_size=-1)),
    ("batch size text", TypeError, ["Tensor: batch_size", "'2'"], lambda: tensor(batch_size="2")),
    ("batch size half", TypeError, ["Tensor: batch_size", "2.5"], lambda: tensor(batch_size=2.5)),
)
def test_sparse_tensor(kind, words, call):
    provoke(kind, words, call)


@pytest.mark.skipif(has_cuda(), reason="this build has its CUDA part")
@table(
    (
        "sparse",
        RuntimeError,
        ["SparseTensor", "CPU in a build without its CUDA part", "TSL_CUDA=ON"],
        lambda: tsl.SparseTensor(cuda(2, 2), cuda(2, 4, dtype=torch.int32)),
    ),
    (
        "points",
        RuntimeError,
        ["PointTensor", "CPU in a build without its CUDA part", "TSL_CUDA=ON"],
        lambda: tsl.PointTensor(cuda(2, 2), cuda(2, 3)),
    ),
)
def test_cuda_tensors_in_a_build_without_cuda(kind, words, call):
    provoke(kind, words, call)


def test_an_operator_without_cuda_version():
    provoke(RuntimeError, ["foo: tensors", "CPU in this version"], _refuse_cuda("foo"))


@table(
    ("replace rows", ValueError, ["feats"], lambda: tensor().replace_feats(torch.ones(3, 2))),
    ("replace rank", ValueError, ["feats"], lambda: tensor().replace_feats(torch.ones(2))),
    ("replace type", TypeError, ["feats"], lambda: tensor().replace_feats([1.0, 2.0])),
    ("replace device", ValueError, ["device"], lambda: tensor().replace_feats(ONES.to("meta"))),
    ("mask dtype", TypeError, ["bool"], lambda: tensor()[torch.tensor([0, 1])]),
    ("mask length", ValueError, ["mask"], lambda: tensor()[torch.tensor([True])]),
    ("dense outside", ValueError, ["dense"], lambda: tensor((0, 5, 0, 0)).dense(shape=(5, 5, 5))),
    ("dense below", ValueError, ["dense"], lambda: tensor((0, 0, 0, -1)).dense(shape=(5, 5, 5))),
    ("dense shape", ValueError, ["shape"], lambda: tensor().dense(shape=(5, 5))),
    ("dense number", ValueError, ["dense: shape", "three", "8"], lambda: tensor().dense(shape=8)),
    (
        "dense origin pair",
        ValueError,
        ["dense: origin", "(0, 0)"],
        lambda: tensor().dense(shape=(5, 5, 5), origin=(0, 0)),
    ),
    (
        "dense origin half",
        TypeError,
        ["dense: origin", "0.5"],
        lambda: tensor().dense(shape=(5, 5, 5), origin=(0.5, 0, 0)),
    ),
    ("to integers", TypeError, ["SparseTensor.to", "int32"], lambda: tensor().to(torch.int32)),
    ("from_dense rank", ValueError, ["dense"], lambda: tsl.SparseTensor.from_dense(ONES)),
    ("add stride", ValueError, ["stride"], lambda: tensor() + tensor(stride=2)),
    ("add batch", ValueError, ["batch"], lambda: tensor(batch_size=2) + tensor(batch_size=3)),
    (
        "add channels",
        ValueError,
        ["channel"],
        lambda: tensor() + tsl.SparseTensor(torch.ones(2, 3), SITES.flip(0)),
    ),
    ("cat nothing", ValueError, ["cat"], lambda: tsl.cat([])),
    ("cat nothing lazy", ValueError, ["cat"], lambda: tsl.cat(x for x in [])),
    ("cat type", TypeError, ["cat"], lambda: tsl.cat([ONES, ONES])),
    ("cat tensor", TypeError, ["cat", "list", "got SparseTensor"], lambda: tsl.cat(tensor())),
    (
        "cat coords",
        ValueError,
        ["cat", "coord"],
        lambda: tsl.cat([tensor(), tensor((0, 0, 0, 0), (0, 2, 0, 0))]),
    ),
    ("cat stride", ValueError, ["cat", "stride"], lambda: tsl.cat([tensor(), tensor(stride=2)])),
)
def test_tensor_methods(kind, words, call):
    provoke(kind, words, call)


def test_adding_an_unknown_type_is_pythons_own_error():
    with pytest.raises(TypeError):
        tensor() + "one"


def conv(x=None, w=None, bias=None, **options):
    options = {"kernel_size": 3} | options
    return tsf.conv3d(tensor() if x is None else x, weight() if w is None else w, bias, **options)


def conv_in_autocast(*args, **options):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return conv(*args, **options)


def shortcut(channels=3, dtype=torch.float32, **options):
    return tsl.SparseTensor(torch.ones(2, channels, dtype=dtype), SITES, **options)


DOWN = {"kernel_size": 2, "stride": 2}


@table(
    ("x type", TypeError, ["SparseTensor"], lambda: conv(ONES)),
    ("weight type", TypeError, ["weight"], lambda: conv(w=[[1.0]])),
    ("weight rank", ValueError, ["weight"], lambda: conv(w=torch.ones(3, 3, 3, 2, 3))),
    ("weight volume", ValueError, ["weight", "27", "8"], lambda: conv(w=weight(8))),
    ("channels", ValueError, ["conv3d", "2", "4"], lambda: conv(w=weight(c_in=4))),
    ("bias shape", ValueError, ["bias", "3"], lambda: conv(bias=torch.ones(4))),
    ("bias type", TypeError, ["bias", "list"], lambda: conv(bias=[0.0] * 3)),
    ("bias dtype", TypeError, ["bias", "float64"], lambda: conv(bias=torch.ones(3).double())),
    ("bias device", ValueError, ["bias", "meta"], lambda: conv(bias=torch.ones(3, device="meta"))),
    ("dtype", TypeError, ["float64"], lambda: conv(w=weight(dtype=torch.float64))),
    (
        "dtypes in autocast",
        TypeError,
        ["weight", "torch.float64", "got torch.float32"],
        lambda: conv_in_autocast(tensor().double()),
    ),
    ("integer feats", TypeError, ["float"], lambda: conv(tsl.SparseTensor(ONES.long(), SITES))),
    ("weight device", ValueError, ["cpu", "meta"], lambda: conv(w=weight(device="meta"))),
    ("groups zero", ValueError, ["groups"], lambda: conv(groups=0)),
    (
        "groups in",
        ValueError,
        ["feats", "(2, 3)"],
        lambda: conv(w=weight(c_in=1, c_out=3), groups=3),
    ),
    ("groups out", ValueError, ["groups"], lambda: conv(w=weight(c_in=1, c_out=3), groups=2)),
    ("kernel zero", ValueError, ["kernel_size"], lambda: conv(kernel_size=0)),
    ("kernel pair", ValueError, ["kernel_size"], lambda: conv(kernel_size=(3, 3))),
    ("kernel type", TypeError, ["conv3d: kernel_size"], lambda: conv(kernel_size=3.0)),
    ("stride type", TypeError, ["conv3d: stride"], lambda: conv(stride=2.0)),
    ("dilation type", TypeError, ["conv3d: dilation"], lambda: conv(dilation=(1, 1, 1.5))),
    ("stride zero", ValueError, ["stride"], lambda: conv(stride=0)),
    ("stride negative", ValueError, ["stride"], lambda: conv(stride=(1, -2, 1))),
    ("dilation zero", ValueError, ["dilation"], lambda: conv(dilation=0)),
    ("padding negative", ValueError, ["padding"], lambda: conv(stride=2, padding=-1)),
    ("rule", ValueError, ["rule", "full", "cell"], lambda: conv(stride=2, rule="some")),
    ("submanifold stride", ValueError, ["submanifold"], lambda: conv(stride=2, submanifold=True)),
    (
        "submanifold transposed",
        ValueError,
        ["submanifold"],
        lambda: conv(submanifold=True, transposed=True),
    ),
    ("generative alone", ValueError, ["generative"], lambda: conv(generative=True)),
    ("target type", TypeError, ["target"], lambda: conv(transposed=True, stride=2, target=SITES)),
    (
        "target stride",
        ValueError,
        ["target", "stride"],
        lambda: conv(tensor(stride=2), stride=2, transposed=True, target=tensor(stride=4)),
    ),
    (
        "residual rows",
        ValueError,
        ["residual"],
        lambda: conv(residual=tsl.SparseTensor(torch.ones(1, 3), SITES[:1])),
    ),
    (
        "residual channels",
        ValueError,
        ["residual"],
        lambda: conv(residual=tsl.SparseTensor(torch.ones(2, 4), SITES)),
    ),
    ("residual type", TypeError, ["residual", "Tensor"], lambda: conv(residual=torch.ones(2, 3))),
    (
        "residual dtype",
        TypeError,
        ["residual", "float64"],
        lambda: conv(residual=shortcut(dtype=torch.float64)),
    ),
    (
        "residual device",
        ValueError,
        ["residual", "meta"],
        lambda: conv(residual=shortcut().to("meta")),
    ),
    (
        "residual stride",
        ValueError,
        ["residual", "stride (1, 1, 1)", "stride=(2, 2, 2)"],
        lambda: conv(residual=shortcut(stride=2)),
    ),
    (
        "residual batch",
        ValueError,
        ["residual", "batch_size 1", "batch_size=2"],
        lambda: conv(residual=shortcut(batch_size=2)),
    ),
    (
        "cell transposed",
        ValueError,
        ["conv3d: rule", "full", "cell"],
        lambda: conv(tensor(stride=2), transposed=True, rule="cell", **DOWN),
    ),
    ("kernel volume", ValueError, ["2147483647"], lambda: conv(kernel_size=2048)),
    (
        "indivisible",
        ValueError,
        ["stride"],
        lambda: conv(tensor(stride=3), weight(8), transposed=True, generative=True, **DOWN),
    ),
)
def test_conv3d(kind, words, call):
    provoke(kind, words, call)


@pytest.mark.parametrize("with_encoder", [False, True])
def test_transposed_without_finer_sites_names_both_remedies(with_encoder):
    """Nothing at the finer stride: the message says how to give sites or generate them."""
    x = tensor(stride=2)
    if with_encoder:
        x = conv(tensor(), weight(8), **DOWN)
        x = tsl.SparseTensor(x.feats, x.coords, x.stride)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        tsf.conv3d(x, weight(8, x.num_channels), transposed=True, **DOWN)
    for remedy in ("target", "generative"):
        assert remedy in str(caught.value)
    with pytest.raises((ValueError, RuntimeError), match="target"):
        tsf.upsample(tensor(stride=2), scale_factor=2)


@table(
    ("in channels", ValueError, ["in_channels"], lambda: tsl.nn.Conv3d(0, 4, 3)),
    ("out channels", ValueError, ["out_channels"], lambda: tsl.nn.Conv3d(4, -1, 3)),
    ("groups in", ValueError, ["groups"], lambda: tsl.nn.Conv3d(4, 6, 3, groups=3)),
    ("groups out", ValueError, ["groups"], lambda: tsl.nn.Conv3d(6, 4, 3, groups=3)),
    ("kernel", ValueError, ["kernel_size"], lambda: tsl.nn.Conv3d(4, 4, 0)),
    ("rule", ValueError, ["rule"], lambda: tsl.nn.Conv3d(4, 4, 3, stride=2, rule="spconv")),
    (
        "rule transposed",
        ValueError,
        ["Conv3d: rule"],
        lambda: tsl.nn.Conv3d(4, 4, 2, 2, transposed=True, rule="cell"),
    ),
    ("pool layer", ValueError, ["MaxPool3d: kernel_size"], lambda: tsl.nn.MaxPool3d(0)),
    (
        "pool volume",
        ValueError,
        ["max_pool3d: kernel_size", "2048"],
        lambda: tsf.max_pool3d(tensor(), 2048),
    ),
    (
        "pool kernel",
        ValueError,
        ["max_pool3d: kernel_size"],
        lambda: tsf.max_pool3d(tensor(), kernel_size=0),
    ),
    (
        "unpool kernel",
        ValueError,
        ["unpool3d: kernel_size"],
        lambda: tsf.unpool3d(tensor(), kernel_size=0),
    ),
    ("upsample type", TypeError, ["upsample: x"], lambda: tsf.upsample(ONES, 2)),
    (
        "scale type",
        TypeError,
        ["upsample: scale_factor"],
        lambda: tsf.upsample(tensor(stride=2), scale_factor=2.0),
    ),
    ("norm channels", ValueError, ["BatchNorm: feats"], lambda: tsl.nn.BatchNorm(3)(tensor())),
    (
        "norm of one site",
        ValueError,
        ["BatchNorm: feats", "eval()"],
        lambda: tsl.nn.BatchNorm(2)(tensor((0, 0, 0, 0))),
    ),
    (
        "layer norm channels",
        ValueError,
        ["LayerNorm: feats"],
        lambda: tsl.nn.LayerNorm(3)(tensor()),
    ),
    (
        "group norm channels",
        ValueError,
        ["GroupNorm: feats"],
        lambda: tsl.nn.GroupNorm(1, 3)(tensor()),
    ),
    (
        "sync norm channels",
        ValueError,
        ["SyncBatchNorm: feats"],
        lambda: tsl.nn.SyncBatchNorm(3)(tensor()),
    ),
    (
        "instance norm channels",
        ValueError,
        ["InstanceNorm: feats"],
        lambda: tsl.nn.InstanceNorm(3)(tensor()),
    ),
    ("slopes", ValueError, ["PReLU: feats", "(*, 3)"], lambda: tsl.nn.PReLU(3)(tensor())),
    ("linear dtype", TypeError, ["Linear: weight"], lambda: tsl.nn.Linear(2, 2)(tensor().double())),
    ("groups of a norm", ValueError, ["num_groups"], lambda: tsl.nn.GroupNorm(2, 3)),
    ("linear channels", ValueError, ["Linear: feats"], lambda: tsl.nn.Linear(3, 3)(tensor())),
    ("pool type", TypeError, ["SparseTensor"], lambda: tsf.avg_pool3d(ONES, kernel_size=2)),
    ("global type", TypeError, ["SparseTensor"], lambda: tsf.global_max_pool(ONES)),
    (
        "scale",
        ValueError,
        ["upsample: scale_factor"],
        lambda: tsf.upsample(tensor(stride=2), scale_factor=0),
    ),
    ("geometry kernel", ValueError, ["kernel_size"], lambda: tsl.ConvGeometry(kernel_size=0)),
    ("geometry stride", ValueError, ["stride"], lambda: tsl.ConvGeometry(kernel_size=1, stride=0)),
    (
        "geometry dilation",
        ValueError,
        ["dilation"],
        lambda: tsl.ConvGeometry(kernel_size=1, dilation=-1),
    ),
    (
        "geometry padding",
        ValueError,
        ["padding"],
        lambda: tsl.ConvGeometry(kernel_size=1, padding=(0, 0, -1)),
    ),
)
def test_layers_and_geometry(kind, words, call):
    provoke(kind, words, call)


@pytest.mark.parametrize(
    "layer",
    [
        tsl.nn.BatchNorm(2),
        tsl.nn.SyncBatchNorm(2),
        tsl.nn.LayerNorm(2),
        tsl.nn.GroupNorm(1, 2),
        tsl.nn.InstanceNorm(2),
        tsl.nn.Linear(2, 2),
        tsl.nn.PReLU(),
        tsl.nn.ReLU(),
        tsl.nn.Dropout(),
        tsl.nn.Identity(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_plain_tensor_gets_the_name_of_the_layer(layer):
    words = [f"{type(layer).__name__}: x", "SparseTensor", "got Tensor", "torch's own layers"]
    provoke(TypeError, words, lambda: layer(ONES))


FAR = (0.0, 1e8, 0.0, 0.0)


@table(
    ("feats type", TypeError, ["feats"], lambda: tsl.PointTensor([1.0], torch.ones(1, 3))),
    ("coords dtype", TypeError, ["coords", "float"], lambda: tsl.PointTensor(ONES, SITES)),
    ("coords shape", ValueError, ["coords"], lambda: tsl.PointTensor(ONES, torch.ones(2, 2))),
    ("rows", ValueError, ["3", "2"], lambda: tsl.PointTensor(ONES, torch.ones(3, 3))),
    ("device", ValueError, ["device"], lambda: tsl.PointTensor(ONES, torch.ones(2, 3).to("meta"))),
    ("batch size half", TypeError, ["2.5"], lambda: tsl.PointTensor(ONES, ONES[:, [0] * 3], 2.5)),
    ("to integers", TypeError, ["PointTensor", "int32"], lambda: points().to(torch.int32)),
    (
        "nan",
        ValueError,
        ["voxelize: points", "finite", "[nan, 0.0, 0.0] in row 1"],
        lambda: tsl.voxelize(points((0.0,) * 4, (0.0, NAN, 0.0, 0.0)), 0.1),
    ),
    ("inf", ValueError, ["finite"], lambda: tsl.voxelize(points((0.0, 0.0, 0.0, -INF)), 0.1)),
    (
        "far",
        ValueError,
        ["voxelize: points", "131071", "[100000000.0, 0.0, 0.0] in row 0"],
        lambda: tsl.voxelize(points(FAR), 0.1),
    ),
    (
        "back far",
        ValueError,
        ["devoxelize: points", "131071"],
        lambda: tsl.devoxelize(tensor(), points(FAR), 0.1),
    ),
    ("batch", ValueError, ["batch"], lambda: tsl.voxelize(points((-1.0, 0.0, 0.0, 0.0)), 0.1)),
    ("batch high", ValueError, ["batch"], lambda: tsl.voxelize(points((1024.0, 0.0, 0.0, 0.0)), 1)),
    ("points type", TypeError, ["PointTensor"], lambda: tsl.voxelize(tensor(), 0.1)),
    ("size zero", ValueError, ["voxel_size"], lambda: tsl.voxelize(points(), 0.0)),
    ("size negative", ValueError, ["voxel_size"], lambda: tsl.voxelize(points(), (0.1, 0.1, -0.1))),
    ("size nan", ValueError, ["voxel_size"], lambda: tsl.voxelize(points(), NAN)),
    ("size pair", ValueError, ["voxel_size"], lambda: tsl.voxelize(points(), (0.1, 0.1))),
    ("size text", TypeError, ["voxelize: voxel_size", "'a'"], lambda: tsl.voxelize(points(), "a")),
    ("size none", TypeError, ["voxelize: voxel_size"], lambda: tsl.voxelize(points(), None)),
    ("origin", ValueError, ["origin"], lambda: tsl.voxelize(points(), 0.1, origin=(0, 0))),
    ("origin number", ValueError, ["origin"], lambda: tsl.voxelize(points(), 0.1, origin=1.0)),
    ("origin nan", ValueError, ["origin"], lambda: tsl.voxelize(points(), 0.1, origin=(0, 0, NAN))),
    ("origin type", TypeError, ["origin"], lambda: tsl.voxelize(points(), 0.1, origin="abc")),
    (
        "reduce",
        ValueError,
        ["reduce", "mean", "sum", "max", "first"],
        lambda: tsl.voxelize(points(), 0.1, reduce="median"),
    ),
    (
        "precision",
        (TypeError, ValueError),
        ["precision", "float64"],
        lambda: tsl.voxelize(points(), 0.1, precision=torch.float16),
    ),
    (
        "outside the shape",
        ValueError,
        ["spatial_shape"],
        lambda: tsl.voxelize(points((0.0, 9.0, 0.0, 0.0)), 1.0, spatial_shape=(4, 4, 4)),
    ),
    ("voxels type", TypeError, ["SparseTensor"], lambda: tsl.devoxelize(points(), points(), 0.1)),
    ("query type", TypeError, ["PointTensor"], lambda: tsl.devoxelize(tensor(), tensor(), 0.1)),
    (
        "mode",
        ValueError,
        ["mode", "nearest", "trilinear"],
        lambda: tsl.devoxelize(tensor(), points(), 0.1, mode="cubic"),
    ),
    (
        "anchor",
        ValueError,
        ["anchor", "corner", "center"],
        lambda: tsl.devoxelize(tensor(), points(), 0.1, mode="trilinear", anchor="edge"),
    ),
    ("back size", ValueError, ["voxel_size"], lambda: tsl.devoxelize(tensor(), points(), 0)),
    ("quantize shape", ValueError, ["coords"], lambda: tsl.sparse_quantize(np.ones((3, 2)), 0.1)),
    (
        "quantize nan",
        ValueError,
        ["sparse_quantize: coords", "finite", "nan"],
        lambda: tsl.sparse_quantize(np.array([[NAN, 0.0, 0.0]]), 0.1),
    ),
    ("quantize size", ValueError, ["voxel_size"], lambda: tsl.sparse_quantize(np.ones((3, 3)), -1)),
)
def test_points(kind, words, call):
    provoke(kind, words, call)


def sampled(number, *batch):
    rows = torch.zeros(len(batch) or 3, 4)
    rows[:, 0] = torch.tensor(batch or (0, 0, 0))
    return tsl.furthest_point_sample(tsl.PointTensor(torch.ones(len(rows), 2), rows), number)


def ball(centers=None, radius=1.0, max_neighbors=2):
    centers = points() if centers is None else centers
    return tsl.ball_query(points(), centers, radius=radius, max_neighbors=max_neighbors)


def pair():
    return tsl.PointTensor(torch.ones(2, 2), torch.ones(2, 3), batch_size=2)


NAN_ROW = ((0.0,) * 4, (0.0, NAN, 0.0, 0.0))
PVCONV = {"resolution": 2}


def category(value=None, number=3):
    model = tsl.models.PVCNN(
        2, 3, tsl.models.PVCNNShape((tsl.models.PVStage(4),), ()), num_categories=number
    )
    return model.eval()(points(), value)


@table(
    (
        "sample type",
        TypeError,
        ["points", "PointTensor"],
        lambda: tsl.furthest_point_sample(ONES, 1),
    ),
    (
        "sample nan",
        ValueError,
        ["finite", "row 1"],
        lambda: tsl.furthest_point_sample(points(*NAN_ROW), 1),
    ),
    ("sample none", ValueError, ["num_samples", "0"], lambda: sampled(0)),
    ("sample bool", TypeError, ["num_samples", "True"], lambda: sampled(True)),
    ("sample text", TypeError, ["num_samples", "'2'"], lambda: sampled("2")),
    ("sample share", ValueError, ["share", "1.5"], lambda: sampled(1.5)),
    ("sample no share", ValueError, ["share", "0.0"], lambda: sampled(0.0)),
    ("sample nan share", ValueError, ["share", "nan"], lambda: sampled(NAN)),
    (
        "sample too many",
        ValueError,
        ["num_samples", "2 in cloud 3", "got 3", "fewer"],
        lambda: sampled(3, 1, 1, 1, 3, 3, 4),
    ),
    ("ball radius", ValueError, ["radius", "0.0"], lambda: ball(radius=0.0)),
    ("ball radius infinite", ValueError, ["radius", "inf"], lambda: ball(radius=INF)),
    ("ball radius text", TypeError, ["radius", "Real", "str"], lambda: ball(radius="1")),
    ("ball neighbors", ValueError, ["max_neighbors", "0"], lambda: ball(max_neighbors=0)),
    ("ball neighbors half", TypeError, ["max_neighbors"], lambda: ball(max_neighbors=1.5)),
    ("ball centers", TypeError, ["ball_query: centers"], lambda: ball(ONES)),
    ("ball nan", ValueError, ["centers", "row 1"], lambda: ball(points(*NAN_ROW))),
    ("ball batches", ValueError, ["centers", "clouds", "2"], lambda: ball(pair())),
    ("nearest k", ValueError, ["k", "0"], lambda: tsl.nearest_neighbors(points(), points(), k=0)),
    ("nearest type", TypeError, ["queries"], lambda: tsl.nearest_neighbors(points(), tensor())),
    ("mean batches", ValueError, ["queries"], lambda: tsl.interpolate_nearest(points(), pair())),
    ("mean eps", ValueError, ["eps"], lambda: tsl.interpolate_nearest(points(), points(), eps=0.0)),
    (
        "mean eps type",
        TypeError,
        ["eps"],
        lambda: tsl.interpolate_nearest(points(), points(), eps=""),
    ),
    ("mean k", TypeError, ["k", "2.5"], lambda: tsl.interpolate_nearest(points(), points(), k=2.5)),
    ("group feats", TypeError, ["feats"], lambda: tsl.group_points([1.0], INDEX)),
    ("group shape", ValueError, ["feats"], lambda: tsl.group_points(ONES[0], INDEX)),
    ("group index", TypeError, ["index"], lambda: tsl.group_points(ONES, [[0]])),
    ("group index dtype", TypeError, ["int64"], lambda: tsl.group_points(ONES, INDEX.int())),
    ("group index shape", ValueError, ["index"], lambda: tsl.group_points(ONES, INDEX[0])),
    ("group index range", ValueError, ["index", "2"], lambda: tsl.group_points(ONES, INDEX + 2)),
    ("grid type", TypeError, ["CloudGrid: points"], lambda: tsl.CloudGrid(ONES, 4)),
    ("grid nan", ValueError, ["finite", "row 1"], lambda: tsl.CloudGrid(points(*NAN_ROW), 4)),
    ("grid zero", ValueError, ["resolution", "0"], lambda: tsl.CloudGrid(points(), 0)),
    ("grid half", TypeError, ["resolution", "2.5"], lambda: tsl.CloudGrid(points(), 2.5)),
    (
        "grid rows",
        ValueError,
        ["scatter: feats"],
        lambda: tsl.CloudGrid(points(), 2).scatter(ONES[:1]),
    ),
    (
        "grid cells",
        ValueError,
        ["gather: x", "8 cells"],
        lambda: tsl.CloudGrid(points(), 2).gather(tensor()),
    ),
    (
        "pvconv kind",
        TypeError,
        ["PVConv: grid", "CloudGrid"],
        lambda: tsl.nn.PVConv(2, 2, **PVCONV)(points(), tsl.PointGrid(points(), 1.0)),
    ),
    (
        "spvconv kind",
        TypeError,
        ["SPVConv: grid", "PointGrid"],
        lambda: tsl.nn.SPVConv(2, 2, voxel_size=1.0)(points(), tsl.CloudGrid(points(), 2)),
    ),
    ("excite zero", ValueError, ["reduction", "0"], lambda: tsl.nn.SqueezeExcitation(8, 0)),
    ("excite half", TypeError, ["reduction"], lambda: tsl.nn.SqueezeExcitation(8, 2.5)),
    ("pvconv zero", ValueError, ["PVConv: resolution"], lambda: tsl.nn.PVConv(2, 2, resolution=0)),
    ("pvconv even", ValueError, ["kernel_size", "odd"], lambda: tsl.nn.PVConv(2, 2, 2, **PVCONV)),
    ("pvconv kernel", TypeError, ["kernel_size"], lambda: tsl.nn.PVConv(2, 2, 3.0, **PVCONV)),
    ("pvconv type", TypeError, ["PVConv: points"], lambda: tsl.nn.PVConv(2, 2, **PVCONV)(tensor())),
    (
        "pvconv feats",
        ValueError,
        ["PVConv: feats", "3"],
        lambda: tsl.nn.PVConv(3, 2, **PVCONV)(points()),
    ),
    (
        "pvconv nan",
        ValueError,
        ["PVConv: points", "row 1"],
        lambda: tsl.nn.PVConv(2, 2, **PVCONV)(points(*NAN_ROW)),
    ),
    (
        "pvconv grid",
        ValueError,
        ["PVConv: grid", "resolution 2"],
        lambda: tsl.nn.PVConv(2, 2, **PVCONV)(points(), tsl.CloudGrid(points(), 3)),
    ),
    (
        "pvconv other points",
        ValueError,
        ["PVConv: grid", "same coordinates"],
        lambda: tsl.nn.PVConv(2, 2, **PVCONV)(points(), tsl.CloudGrid(pair(), 2)),
    ),
    ("spvconv size", ValueError, ["voxel_size"], lambda: tsl.nn.SPVConv(2, 2, voxel_size=0.0)),
    (
        "spvconv type",
        TypeError,
        ["SPVConv: points"],
        lambda: tsl.nn.SPVConv(2, 2, voxel_size=1)(ONES),
    ),
    (
        "spvconv feats",
        ValueError,
        ["SPVConv: feats"],
        lambda: tsl.nn.SPVConv(3, 2, voxel_size=1)(points()),
    ),
    (
        "spvconv nan",
        ValueError,
        ["SPVConv: points"],
        lambda: tsl.nn.SPVConv(2, 2, voxel_size=1)(points(*NAN_ROW)),
    ),
    (
        "spvconv grid",
        ValueError,
        ["SPVConv: grid", "voxel_size"],
        lambda: tsl.nn.SPVConv(2, 2, voxel_size=1)(points(), tsl.PointGrid(points(), 2)),
    ),
    (
        "abstraction type",
        TypeError,
        ["SetAbstraction: points"],
        lambda: tsl.nn.SetAbstraction(2, (2,), num_centers=1, radius=1.0, max_neighbors=1)(ONES),
    ),
    (
        "abstraction feats",
        ValueError,
        ["SetAbstraction: feats"],
        lambda: tsl.nn.SetAbstraction(3, (2,), num_centers=1, radius=1.0, max_neighbors=1)(
            points()
        ),
    ),
    (
        "propagation type",
        TypeError,
        ["FeaturePropagation: fine"],
        lambda: tsl.nn.FeaturePropagation(4, (2,))(points(), ONES),
    ),
    (
        "propagation feats",
        ValueError,
        ["FeaturePropagation: feats", "(*, 5)"],
        lambda: tsl.nn.FeaturePropagation(5, (2,))(points(), points()),
    ),
    ("category missing", TypeError, ["category", "None"], lambda: category()),
    ("category not known", TypeError, ["category"], lambda: category(PTR[:1], number=0)),
    ("category shape", ValueError, ["category", "(1)"], lambda: category(PTR)),
    ("category dtype", TypeError, ["category", "int64"], lambda: category(PTR[:1].int())),
    (
        "category range",
        ValueError,
        ["category", "from 0 to 2", "[3]"],
        lambda: category(PTR[:1] + 3),
    ),
    ("category below", ValueError, ["category", "[-1]"], lambda: category(PTR[:1] - 1)),
    (
        "pvcnn feats",
        ValueError,
        ["PVCNNPlusPlus: feats", "6"],
        lambda: tsl.models.pvcnn("s3dis++", width=0.125)(points()),
    ),
)
def test_neighborhoods_and_grids(kind, words, call):
    provoke(kind, words, call)


@table(
    ("collate nothing", ValueError, ["collate"], lambda: tsl.sparse_collate([])),
    ("collate type", TypeError, ["SparseTensor"], lambda: tsl.sparse_collate([ONES])),
    (
        "collate stride",
        ValueError,
        ["stride"],
        lambda: tsl.sparse_collate([tensor(), tensor(stride=2)]),
    ),
    (
        "collate channels",
        ValueError,
        ["channel"],
        lambda: tsl.sparse_collate([tensor(), tsl.SparseTensor(torch.ones(2, 3), SITES)]),
    ),
    (
        "collate too many",
        ValueError,
        ["batch", "1024"],
        lambda: tsl.sparse_collate([tensor(batch_size=600), tensor(batch_size=600)]),
    ),
    (
        "points too many",
        ValueError,
        ["batch_size", "1024"],
        lambda: tsl.PointTensor(ONES, torch.zeros(2, 4), batch_size=1025),
    ),
    (
        "points batch infinite",
        ValueError,
        ["column 0", "inf"],
        lambda: tsl.PointTensor(ONES, torch.tensor([[0.0] * 4, [INF] + [0.0] * 3])),
    ),
    (
        "collate keys",
        ValueError,
        ["collate_fn: samples", "keys", "'a'", "'b'"],
        lambda: tsl.collate_fn([{"a": 1}, {"b": 1}]),
    ),
    ("collate length", ValueError, ["length", "2"], lambda: tsl.collate_fn([(1, 2), (1,)])),
    ("collate structure", TypeError, ["Mapping"], lambda: tsl.collate_fn([{"a": 1}, [1]])),
    ("collate kinds", TypeError, ["PointTensor"], lambda: tsl.collate_fn([points(), ONES])),
    (
        "collate channels of points",
        ValueError,
        ["collate_fn: samples", "num_channels", "[2, 3]"],
        lambda: tsl.collate_fn([points(), points(feats=torch.ones(2, 3))]),
    ),
    (
        "collate dtypes of points",
        ValueError,
        ["collate_fn: samples", "dtype", "float16"],
        lambda: tsl.collate_fn([points(), points().half()]),
    ),
    (
        "collate devices of points",
        ValueError,
        ["collate_fn: samples", "device", "meta"],
        lambda: tsl.collate_fn([points(), points().to("meta")]),
    ),
    (
        "collate coordinates of points",
        ValueError,
        ["collate_fn: samples", "coords.dtype", "float64"],
        lambda: tsl.collate_fn([points(), tsl.PointTensor(ONES, points().coords.double())]),
    ),
    ("collate numbers", TypeError, ["int", "str"], lambda: tsl.collate_fn([1, "2"])),
    ("collate a tensor", TypeError, ["list"], lambda: tsl.sparse_collate(tensor())),
    ("table dtype", TypeError, ["int32"], lambda: tsl.HashTable(SITES.long())),
    ("table shape", ValueError, ["coords"], lambda: tsl.HashTable(SITES[:, :3])),
    ("table range", ValueError, ["131071"], lambda: tsl.HashTable(coords_of((0, 131072, 0, 0)))),
    ("query dtype", TypeError, ["int32"], lambda: tsl.HashTable(SITES).lookup(SITES.long())),
    ("query shape", ValueError, ["coords"], lambda: tsl.HashTable(SITES).lookup(SITES[:, :3])),
)
def test_collate_and_hash_table(kind, words, call):
    provoke(kind, words, call)


NO_SCRATCH = scratch_on(SITES)
STRIDED = torch.zeros(4, 8, dtype=torch.int32)[:, ::2]
INDEX = torch.zeros(3, 1, dtype=torch.int64)
TABLE = tuple(
    torch.zeros(size, dtype=kind)
    for size, kind in ((17, torch.int64), (17, torch.int32), (4, torch.int32))
)
PTR = torch.tensor([0, 2])
XYZ = torch.zeros(2, 3)
CLOUD = (torch.arange(2), PTR)


@table(
    ("strided view", ValueError, ["contiguous"], lambda: C.hash_build(STRIDED, TABLE, 1)),
    (
        "strided order",
        ValueError,
        ["contiguous"],
        lambda: C.is_morton_ordered(STRIDED, NO_SCRATCH, 1),
    ),
    ("raw dtype", TypeError, ["int32"], lambda: C.is_morton_ordered(SITES.long(), NO_SCRATCH, 1)),
    (
        "raw shape",
        ValueError,
        ["(2, 3)"],
        lambda: C.is_morton_ordered(SITES[:, :3].clone(), NO_SCRATCH, 1),
    ),
    ("coords dtype", TypeError, ["int32"], lambda: ops.unique_coords(SITES.long())),
    ("coords shape", ValueError, ["coords"], lambda: ops.unique_coords(SITES[:, :3])),
    ("hash dtype", TypeError, ["int32"], lambda: ops.hash_build(SITES.long())),
    ("index dtype", TypeError, ["int64"], lambda: ops.interpolate(ONES, INDEX.int(), ONES[:1])),
    (
        "index range",
        ValueError,
        ["index"],
        lambda: ops.interpolate(ONES, INDEX + 2, torch.ones(3, 1)),
    ),
    (
        "index below",
        ValueError,
        ["index", "-2", "entry 1"],
        lambda: ops.interpolate(ONES, torch.tensor([[-1], [-2]]), torch.ones(2, 1)),
    ),
    (
        "index of a gradient",
        ValueError,
        ["index", "2", "entry 0"],
        lambda: torch.ops.tsl.interpolate_grad(ONES, INDEX[:2] + 2, torch.ones(2, 1), 2),
    ),
    (
        "weight shape",
        ValueError,
        ["weight"],
        lambda: ops.interpolate(ONES, INDEX, torch.ones(3, 2)),
    ),
    (
        "segment mode",
        ValueError,
        ["sum", "mean", "max", "median"],
        lambda: ops.segment_reduce(ONES, torch.arange(2), PTR, reduce="median"),
    ),
    (
        "segment order",
        ValueError,
        ["order"],
        lambda: ops.segment_reduce(ONES, torch.tensor([0, 2]), PTR, reduce="sum"),
    ),
    (
        "segment ptr",
        ValueError,
        ["ptr"],
        lambda: ops.segment_reduce(ONES, torch.arange(2), torch.tensor([0, 3]), reduce="sum"),
    ),
    (
        "segment ptr descends",
        ValueError,
        ["ptr", "entry 2"],
        lambda: ops.segment_reduce(ONES, torch.arange(2), torch.tensor([0, 2, 1, 2]), reduce="max"),
    ),
    (
        "segment ptr begins late",
        ValueError,
        ["ptr", "entry 0"],
        lambda: ops.segment_reduce(ONES, torch.arange(2), torch.tensor([1, 2]), reduce="mean"),
    ),
    (
        "segment order below",
        ValueError,
        ["order", "-1"],
        lambda: ops.segment_reduce(ONES, torch.tensor([0, -1]), PTR, reduce="sum"),
    ),
    (
        "more samples than points",
        ValueError,
        ["sample_ptr", "3 of 2 in cloud 0"],
        lambda: ops.furthest_points(XYZ, CLOUD, torch.tensor([0, 3])),
    ),
    (
        "samples of another batch",
        ValueError,
        ["furthest_points: sample_ptr"],
        lambda: ops.furthest_points(XYZ, CLOUD, torch.tensor([0, 1, 2])),
    ),
    (
        "cloud order",
        ValueError,
        ["furthest_points: order", "2"],
        lambda: ops.furthest_points(XYZ[:2], (PTR, PTR), torch.tensor([0, 1])),
    ),
    (
        "cloud ptr",
        ValueError,
        ["nearest_points: ptr"],
        lambda: ops.nearest_points(XYZ, (torch.arange(2), PTR + 1), XYZ, PTR, k=1),
    ),
    (
        "query cloud",
        ValueError,
        ["ball_query: query_cloud", "1"],
        lambda: ops.ball_query(XYZ, CLOUD, XYZ, PTR // 2, radius=1.0, max_neighbors=1),
    ),
    (
        "query dtype",
        TypeError,
        ["nearest_points: queries", "float64"],
        lambda: ops.nearest_points(XYZ, CLOUD, XYZ.double(), PTR, k=1),
    ),
    (
        "no neighbours",
        ValueError,
        ["nearest_points: index"],
        lambda: ops.nearest_points(XYZ, CLOUD, XYZ, PTR * 0, k=0),
    ),
    (
        "position dtype",
        TypeError,
        ["furthest_points: xyz", "float16"],
        lambda: ops.furthest_points(XYZ.half(), CLOUD, PTR),
    ),
    (
        "searched dtype",
        TypeError,
        ["ball_query: xyz", "float16"],
        lambda: ops.ball_query(XYZ.half(), CLOUD, XYZ.half(), PTR * 0, radius=1.0, max_neighbors=1),
    ),
    (
        "corner dtype",
        TypeError,
        ["corners: xyz", "float32 or float64", "float16"],
        lambda: C.corners(
            ops.hash_build(SITES),
            XYZ.half(),
            SITES,
            *[(1.0,) * 3] * 3,
            0.0,
            True,
            torch.zeros(2, 8, dtype=torch.int64),
            torch.zeros(2, 8).half(),
            1,
        ),
    ),
    (
        "column dtype",
        TypeError,
        ["column_sums: a", "float32, float64 or bfloat16", "float16"],
        lambda: C.column_sums(ONES.half(), None, PTR.double(), None, NO_SCRATCH, 1),
    ),
    (
        "scaled dtype",
        TypeError,
        ["scale_shift: x", "bfloat16", "float16"],
        lambda: C.scale_shift(ONES.half(), ONES[0], None, None, None, ONES.half(), 1),
    ),
    (
        "gradient dtype",
        TypeError,
        ["interpolate_backward: grad_out", "float16"],
        lambda: C.interpolate_backward(
            ONES.half(), INDEX[:2], torch.ones(2, 1), ONES.half(), NO_SCRATCH, 1
        ),
    ),
    ("sums shape", ValueError, ["column_sums"], lambda: ops.column_sums(ONES, torch.ones(3, 2))),
    ("scale shape", ValueError, ["scale_shift"], lambda: ops.scale_shift(ONES, torch.ones(3))),
    (
        "other without scale",
        ValueError,
        ["scale_shift", "other_scale"],
        lambda: ops.scale_shift(ONES, torch.ones(2), other=ONES),
    ),
)
def test_low_level_operators(kind, words, call):
    provoke(kind, words, call)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_arrays_and_tensors_of_integers_are_integers(array):
    """Sizes often come out of an array."""
    x = tensor(stride=array(2), spatial_shape=array([4, 4, 4]), batch_size=np.int64(2))
    assert x.stride == (2, 2, 2)
    assert x.spatial_shape == (4, 4, 4)
    assert x.dense(shape=array([5, 5, 5]), origin=array([-1, 0, 0])).shape == (2, 2, 5, 5, 5)
    assert tsl.nn.Conv3d(2, 2, array([3, 1, 1]), array([2, 1, 1])).stride == (2, 1, 1)
    size, origin = array([0.5, 0.5, 0.5]), array([0.0, 0.0, 0.25])
    expected = tsl.voxelize(points(), 0.5, origin=(0.0, 0.0, 0.25)).voxels.coords
    assert torch.equal(tsl.voxelize(points(), size, origin=origin).voxels.coords, expected)
    assert tsl.ConvGeometry(np.int32(3)).kernel_size == (3, 3, 3)


def test_strided_views_are_right_where_they_are_accepted():
    """The operators either refuse a view or give what its copy gives, forward and backward."""
    wide = clouds.random_values(30, 8, dtype=torch.float32)
    coords = torch.zeros(30, 8, dtype=torch.int32)
    coords[:, ::2] = clouds.signed_coords(30)
    views = wide[:, ::2], coords[:, ::2]
    grads = torch.ones(1, 1).expand(30, 3), torch.ones(30, 3)
    w = harness.random_weight(3, 4, 3, dtype=torch.float32)
    results = []
    for (f, c), grad in zip((views, [v.contiguous() for v in views]), grads, strict=True):
        f = f.detach().requires_grad_()
        y = tsf.conv3d(tsl.SparseTensor(f, c), w, kernel_size=3)
        results.append((y.feats, *torch.autograd.grad(y.feats, f, grad)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_failed_call_leaves_its_inputs_as_they_were():
    """After every kind of refusal the same tensor still convolves to the same bits."""
    x = harness.sparse(clouds.signed_coords(30), 2, dtype=torch.float32)
    before = conv(x).feats
    for wrong in (
        lambda: conv(x, weight(8)),
        lambda: conv(x, weight(), stride=2, rule="none"),
        lambda: conv(x, weight(8), kernel_size=2, stride=2, transposed=True),
        lambda: x + x.replace_feats(torch.ones(30, 5)),
        lambda: x.replace_feats(torch.ones(3, 2)),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            wrong()
    assert torch.equal(conv(x).feats, before)
