# SPDX-License-Identifier: MIT
"""torch.library's own checks of every operator, and torch.compile without a graph break.

Arguments are not written by hand: a small training step is recorded, and each distinct call of a
``torch.ops.tsl`` operator that it made is replayed.
"""

from __future__ import annotations

import clouds
import harness
import pytest
import torch
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import torchsparse_lite as tsl
from torchsparse_lite.nn import functional as tsf

pytestmark = pytest.mark.compile

OPERATORS = sorted(n for n in torch._C._dispatch_get_all_op_names() if n.startswith("tsl::"))


class Recorder(TorchDispatchMode):
    """Keeps detached copies of the arguments of each distinct call by operator name."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "tsl":
            key = (func._schema.name, *map(self.kind, args))
            copied = torch.utils._pytree.tree_map(self.copy, (args, kwargs or {}))
            self.calls.setdefault(key, (func, *copied))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def kind(value):
        """What makes two calls different: dtypes and plain values, not sizes."""
        if isinstance(value, torch.Tensor):
            return value.dtype
        if type(value) is int:
            return int
        return str([type(v) for v in value]) if isinstance(value, list) else repr(value)[:20]

    @staticmethod
    def copy(value):
        return value.detach().clone() if isinstance(value, torch.Tensor) else value

    def of(self, name):
        return [call for key, call in self.calls.items() if key[0] == name]


def workload():
    """A step through every operator: maps by both searches, all convolutions, pools, points."""
    for order in (lambda c: c, clouds.morton_order):
        coords = clouds.surface_coords(12, batch_size=2)
        coords = coords[order(coords)] if order is clouds.morton_order else coords
        x = harness.sparse(coords, 4, dtype=torch.float32)
        x.feats.requires_grad_()
        layers = tsl.nn.Sequential(
            tsl.nn.Conv3d(4, 4, 3),
            tsl.nn.BatchNorm(4),
            tsl.nn.PReLU(),
            tsl.nn.Linear(4, 4),
            tsl.nn.LayerNorm(4),
            tsl.nn.Conv3d(4, 4, 3, groups=4),
            tsl.nn.Conv3d(4, 8, 2, 2),
            tsl.nn.Conv3d(8, 4, 2, 2, transposed=True),
            tsl.nn.Conv3d(4, 4, 3, 2, padding=1),
            tsl.nn.Conv3d(4, 4, 3, 2, padding=1, transposed=True, generative=True),
        )
        y = layers(x)
        loss = y.feats.sum()
        for pool in (tsf.max_pool3d, tsf.avg_pool3d, tsf.sum_pool3d):
            loss = loss + pool(x, kernel_size=2).feats.sum()
        for pool in (tsf.global_max_pool, tsf.global_avg_pool, tsf.global_sum_pool):
            loss = loss + pool(x).sum()
        loss = (
            loss
            + tsf.conv3d(
                x, torch.ones(27, 4, 4), torch.ones(4), kernel_size=3, residual=x, relu=True
            ).feats.sum()
        )
        with torch.no_grad():
            kernel_map = x.manager.submanifold(x.level, tsl.ConvGeometry.same(3))
            pairs = kernel_map.pairs(with_backward=False)
            tsl.ops.table_of_pairs(kernel_map.lists, kernel_map.num_out)
            sides = (x.feats, x.feats)
            terms = [
                tsl.ops.ConvTerm(sides, torch.ones(27, 8, 4), pairs, torch.ones(4)),
                tsl.ops.ConvTerm(sides[:1], torch.ones(27, 4, 4), pairs),
            ]
            tsl.ops.sparse_conv_sum(terms, residual=x.feats, relu=True)
        points = tsl.PointTensor(torch.ones(50, 4, requires_grad=True), clouds.random_points(50))
        for reduce in ("mean", "sum", "max", "first"):
            voxels = tsl.voxelize(points, 0.5, reduce=reduce).voxels
            loss = loss + tsl.devoxelize(voxels, points, 0.5, mode="trilinear").sum()
            loss = loss + tsl.devoxelize(voxels, points, 0.5, mode="nearest").sum()
        rows = tsl.furthest_point_sample(points, 9)
        centers = tsl.PointTensor(points.feats[rows], points.coords[rows])
        index = tsl.ball_query(points, centers, radius=2.0, max_neighbors=4)
        loss = loss + tsl.group_points(points.feats, index).sum()
        loss = loss + tsl.interpolate_nearest(centers, points).sum()
        loss.backward()
    tsl.HashTable(coords).lookup(coords)
    torch.ops.tsl.coarsen(coords.contiguous())


@pytest.fixture(scope="module")
def recorded():
    """The calls of one workload, made once."""
    recorder = Recorder()
    with recorder:
        workload()
    return recorder


def differentiable(values):
    """Floating tensors ask for gradients, so that opcheck looks at the autograd kernel too."""

    def ask(value):
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.clone().requires_grad_() if is_float else value

    return torch.utils._pytree.tree_map(ask, values)


def test_there_are_operators():
    assert len(OPERATORS) >= 10


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(recorded, name):
    """Schema, autograd registration, fake kernel and AOT dispatch of each distinct call."""
    calls = recorded.of(name)
    assert calls, f"the workload never reaches {name}: extend it"
    is_differentiable = torch._C._dispatch_has_kernel_for_dispatch_key(name, "Autograd")
    for func, args, kwargs in calls:
        if is_differentiable:
            args, kwargs = differentiable((args, kwargs))
        opcheck(func, args, kwargs)


def recorded_convolution(recorded):
    """A forward sparse_conv call with bias, as (feats, weight, bias, the rest)."""
    for func, args, _ in recorded.of("tsl::sparse_conv"):
        if args[2] is not None and args[3] is None:
            return func, args
    pytest.fail("the workload holds no convolution with a bias")


def compiled_equals_eager(recorded, backend):
    """fullgraph=True over convolution, activation and interpolation: values and gradients."""
    _, args = recorded_convolution(recorded)
    rest = args[3:]

    def step(feats, weight, bias, index, mix):
        y = torch.ops.tsl.sparse_conv(feats, weight, bias, *rest)
        y = torch.nn.functional.silu(y)
        return torch.ops.tsl.interpolate(y, index, mix).square().sum()

    rows = torch.ops.tsl.sparse_conv(*args).shape[0]
    index = torch.arange(2 * rows).reshape(-1, 2).remainder(rows)
    mix = clouds.random_values(len(index), 2, dtype=args[0].dtype)
    results = []
    for run in (step, torch.compile(step, backend=backend, fullgraph=True)):
        leaves = [t.detach().clone().requires_grad_() for t in args[:3]]
        value = run(*leaves, index, mix)
        results.append((value, *torch.autograd.grad(value, leaves)))
    for eager, compiled in zip(*results, strict=True):
        clouds.assert_close(compiled, eager, tolerance=1e-5)


def test_compile_fullgraph_with_aot_eager(recorded):
    compiled_equals_eager(recorded, "aot_eager")


@pytest.mark.slow
def test_compile_fullgraph_with_inductor(recorded):
    compiled_equals_eager(recorded, "inductor")


def test_compile_fullgraph_over_operators_of_unknown_size():
    """Unique coordinates and segment reduction, whose sizes only the data tell, in one graph."""

    def group(coords, feats):
        voxels, index, order, ptr = torch.ops.tsl.unique_coords(coords)
        out, _ = torch.ops.tsl.segment_reduce(feats, order, ptr, "sum")
        return voxels, out[index]

    coords = clouds.signed_coords(40, low=-2, high=2).repeat(2, 1)
    feats = clouds.random_values(len(coords), 3)
    compiled = torch.compile(group, backend="aot_eager", fullgraph=True)
    for eager, traced in zip(group(coords, feats), compiled(coords, feats), strict=True):
        assert torch.equal(eager, traced)


# Dynamo itself looks at the .grad of what enters a graph after a break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_network_compiles_and_gives_the_same():
    """torch.compile of sparse layers, graph breaks allowed: same results, no warning of ours.

    Dynamo must not look into the kernels, which call the compiled module.
    """
    coords = clouds.surface_coords(12)
    net = tsl.nn.Sequential(
        tsl.nn.Conv3d(4, 8, 3),
        tsl.nn.BatchNorm(8),
        tsl.nn.ReLU(),
        tsl.nn.Conv3d(8, 8, 2, 2),
        tsl.nn.Linear(8, 8),
        tsl.nn.Conv3d(8, 4, 2, 2, transposed=True),
    ).eval()

    def run(feats):
        y = net(tsl.SparseTensor(feats, coords))
        return tsf.max_pool3d(y[y.feats[:, 0] > 0] + y, kernel_size=2).feats

    feats = clouds.random_values(len(coords), 4, dtype=torch.float32).requires_grad_()
    results = []
    for call in (run, torch.compile(run, backend="aot_eager")):
        out = call(feats)
        results.append((out, *torch.autograd.grad(out.sum(), (feats, *net.parameters()))))
    for eager, compiled in zip(*results, strict=True):
        clouds.assert_close(compiled, eager, tolerance=1e-6)


def test_points_change_their_features_without_a_break():
    net = tsl.nn.Sequential(torch.nn.Linear(4, 8), tsl.nn.ReLU())
    points = tsl.PointTensor(clouds.random_values(50, 4), clouds.random_points(50))

    def run(points):
        return net(points.float()).double().feats

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    clouds.assert_close(compiled(points), run(points), tolerance=1e-6)
