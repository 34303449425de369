# SPDX-License-Identifier: MIT
"""Who computes a convolution: the whole table, and when a GPU is waited for; without a GPU."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from test_conv_dispatch import with_view
from test_cuda_gemm import kernel_map
from torch._subclasses.fake_tensor import FakeTensorMode

from torchsparse_lite import ops
from torchsparse_lite.ops import PackedWeight, dataflow
from torchsparse_lite.ops.conv_call import ConvCall
from torchsparse_lite.ops.dataflow import Dataflow, choose
from torchsparse_lite.ops.map_arrays import MapArrays, PairLists, Pairs
from torchsparse_lite.ops.sparse_conv_sum import SumCall

CONV = sys.modules["torchsparse_lite.ops.sparse_conv"]  # the package has a function of this name
SUM = sys.modules["torchsparse_lite.ops.sparse_conv_sum"]
ON_CPU, CHANNELWISE, TENSOR_CORES, PLAIN = Dataflow
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYERS = {"dense": 1, "grouped": 2, "depthwise": 4}  # groups, of 4 channels
SWITCHES = [False, True]  # for TF32
# (dtype, TF32) of dense layers on a GPU to their convolution and the gradient of their weight.
DENSE = {
    (torch.float16, False): (TENSOR_CORES, TENSOR_CORES),
    (torch.float16, True): (TENSOR_CORES, TENSOR_CORES),
    (torch.bfloat16, False): (TENSOR_CORES, TENSOR_CORES),
    (torch.bfloat16, True): (TENSOR_CORES, TENSOR_CORES),
    (torch.float32, False): (PLAIN, PLAIN),
    (torch.float32, True): (TENSOR_CORES, PLAIN),
    (torch.float64, False): (PLAIN, PLAIN),
    (torch.float64, True): (PLAIN, PLAIN),
}
CASES = list(itertools.product(LAYERS, DTYPES, SWITCHES))


def wanted(layer, dtype, tf32):
    """On a GPU, by a build for it."""
    if layer == "dense":
        return DENSE[dtype, tf32]
    return (CHANNELWISE, CHANNELWISE) if layer == "depthwise" else (PLAIN, PLAIN)


@pytest.fixture
def machine(monkeypatch):
    """Says which build it is and what torch's switch allows."""

    def is_such(*, has_cuda=True, tf32=False):
        monkeypatch.setattr(dataflow, "has_cuda", lambda: has_cuda)
        monkeypatch.setattr(dataflow, "allows_tf32", lambda: tf32)

    return is_such


@pytest.mark.parametrize(("layer", "dtype", "tf32"), CASES)
def test_the_table(machine, layer, dtype, tf32):
    """Both builds, with and without the view of implicit GEMM."""
    on_gpu = wanted(layer, dtype, tf32)
    kind = {"groups": LAYERS[layer], "is_channelwise": layer == "depthwise"}
    for has_cuda, has_view, of_weight in itertools.product([False, True], repeat=3):
        machine(has_cuda=has_cuda, tf32=tf32)
        found = choose(dtype, has_view=has_view, of_weight=of_weight, **kind)
        lacks_view = on_gpu[of_weight] is TENSOR_CORES and not (has_view or of_weight)
        assert found is (PLAIN if lacks_view or not has_cuda else on_gpu[of_weight])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpu_has_kernels_of_its_own(machine, layer, dtype):
    """Whatever the build and the switch."""
    feats, weight = torch.ones(3, 4, dtype=dtype), torch.ones(27, 4 // LAYERS[layer], 4)
    machine(has_cuda=True, tf32=True)
    assert dataflow.conv_dataflow(feats, weight, LAYERS[layer]) is ON_CPU
    assert dataflow.conv_dataflow(feats) is ON_CPU
    assert dataflow.weight_grad_dataflow(feats, feats, LAYERS[layer]) is ON_CPU


class Taps:
    """Where the taps begin, counting who asks."""

    def __init__(self, tap_ptr):
        self.tap_ptr, self.reads = tap_ptr, 0

    def __call__(self):
        self.reads += 1
        return self.tap_ptr


def on_gpu(layer, dtype, *, view=True, channels=4):
    """Features, weight and map of a layer, on a GPU that is not there."""
    found = kernel_map("cpu")
    pairs = found.pairs(with_backward=False)
    arrays = (with_view(pairs, found) if view else pairs).forward
    taps = Taps(found.tap_ptr)
    with FakeTensorMode(allow_non_fake_inputs=True):
        flat = [torch.empty_like(array, device="cuda") for array in arrays.flat()]
        feats = torch.empty(found.num_in, channels, dtype=dtype, device="cuda")
        shape = 27, channels // LAYERS[layer], channels
        weight = torch.empty(shape, dtype=dtype, device="cuda", requires_grad=True)
    return feats, weight, Pairs(MapArrays.of(flat), None, found.num_out, True, 13, taps=taps)


@pytest.fixture
def operators(monkeypatch):
    """Do nothing: torch differentiates nothing on a GPU that is not there."""
    for module, name in ((CONV, "_sparse_conv"), (CONV, "_weight_grad"), (SUM, "_sparse_conv_sum")):
        monkeypatch.setattr(module, name, lambda *_: None)


def waits(run, pairs):
    """How often a GPU is waited for."""
    before = pairs.taps.reads
    run()
    return pairs.taps.reads - before


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("view", [True, False])
@pytest.mark.parametrize(("layer", "dtype", "tf32"), CASES)
def test_a_gpu_is_waited_for_only_by_loops_over_the_taps(machine, layer, dtype, tf32, view):
    """In inference those of the convolution; in training those of its gradients too."""
    machine(tf32=tf32)
    feats, weight, pairs = on_gpu(layer, dtype, view=view)
    groups = LAYERS[layer]
    flow, of_weight = wanted(layer, dtype, tf32)
    if flow is TENSOR_CORES and not view:
        flow = PLAIN
    assert dataflow.conv_dataflow(feats, weight, groups, has_view=view) is flow
    assert dataflow.weight_grad_dataflow(feats, feats, groups) is of_weight

    def convolve():
        return ops.sparse_conv(feats, weight, pairs, groups=groups)

    with torch.no_grad():
        assert waits(convolve, pairs) == (flow is PLAIN)
        if layer == "dense":
            terms = [ops.ConvTerm((feats,), weight, pairs)]
            assert waits(lambda: ops.sparse_conv_sum(terms), pairs) == (flow is PLAIN)
            assert ops.sums_in_one_pass(feats) == (wanted(layer, dtype, tf32)[0] is TENSOR_CORES)
    assert waits(convolve, pairs) == (PLAIN in (flow, of_weight))
    weight.requires_grad_(False)
    assert waits(convolve, pairs) == (flow is PLAIN)

    def differentiate():
        ops.sparse_conv_weight_grad(feats, feats, pairs, groups=groups)

    assert waits(differentiate, pairs) == (of_weight is PLAIN)


@pytest.mark.parametrize(("layer", "dtype", "tf32"), CASES)
@torch.no_grad()
def test_weights_are_packed_for_tensor_cores_alone(machine, monkeypatch, layer, dtype, tf32):
    machine(tf32=tf32)
    feats, weight, _ = on_gpu(layer, dtype)
    monkeypatch.setattr(PackedWeight, "of", lambda *_: [weight])
    kept = CONV.kept_weight(PackedWeight(), weight, [feats], LAYERS[layer])
    assert bool(kept) == (wanted(layer, dtype, tf32)[0] is TENSOR_CORES)


def test_one_channel_is_each_by_itself(machine):
    """So nothing is packed for it, though it is one group."""
    machine()
    feats, _, _ = on_gpu("dense", torch.float16, channels=1)
    weight = torch.empty(27, 1, 1, dtype=torch.float16)
    assert dataflow.conv_dataflow(feats, weight) is CHANNELWISE
    assert dataflow.conv_dataflow(feats, weight.expand(27, 1, 4)) is TENSOR_CORES
    assert dataflow.weight_grad_dataflow(feats, feats, 1) is CHANNELWISE


@pytest.fixture
def autocast():
    """For CUDA without a warning that there is none."""
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


@pytest.mark.usefixtures("autocast")
def test_autocast_decides_for_convolutions_and_not_for_gradients(machine):
    """Which autocast makes halves of, and leaves alone."""
    machine()
    feats, weight, pairs = on_gpu("dense", torch.float32)
    assert dataflow.conv_dataflow(feats, weight) is TENSOR_CORES
    assert dataflow.host_taps(pairs, feats, weight) is None
    assert dataflow.weight_grad_dataflow(feats, feats, 1) is PLAIN
    wide, weight, pairs = on_gpu("dense", torch.float64)
    assert dataflow.conv_dataflow(wide, weight) is PLAIN
    assert not ops.sums_in_one_pass(feats)


def test_on_the_cpu_the_taps_are_at_hand():
    found = kernel_map("cpu")
    feats, weight = torch.ones(found.num_in, 4), torch.ones(27, 4, 4)
    pairs = found.pairs(with_backward=False)
    assert dataflow.host_taps(pairs, feats, weight) is found.tap_ptr


def test_a_map_without_the_taps_has_none_to_pass(machine):
    """One with room, inside a captured graph."""
    machine()
    feats, weight, pairs = on_gpu("grouped", torch.float16)
    without = Pairs(pairs.forward, None, pairs.num_out)
    assert dataflow.host_taps(without, feats, weight, 2) is None


@pytest.fixture(params=SWITCHES)
def switch(request):
    """Torch's own."""
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.compile
@pytest.mark.usefixtures("switch")
@pytest.mark.parametrize("dtype", DTYPES)
def test_dynamo_traces_the_choice(monkeypatch, dtype):
    """Into a constant, without a break; it cannot read the switch for TF32, which counts as off."""
    monkeypatch.setattr(dataflow, "has_cuda", lambda: True)

    def run(x):
        return x + choose(dtype).value

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    assert compiled(torch.zeros(())) == DENSE[dtype, False][0].value


@pytest.mark.parametrize(
    ("record", "name"), [(ConvCall, "sparse_conv"), (SumCall, "sparse_conv_sum")]
)
def test_records_are_in_the_order_of_their_schemas(record, name):
    schema = getattr(torch.ops.tsl, name).default._schema
    assert record._fields == tuple(argument.name for argument in schema.arguments)


def test_arrays_are_the_same_as_a_list_and_by_name():
    seven = [torch.full((1,), number) for number in range(7)]
    for count in (3, 7):
        arrays = MapArrays.of(seven[:count])
        assert arrays.lists == PairLists(*seven[:3])
        assert all(a is b for a, b in zip(arrays.flat(), seven[:count], strict=True))
    assert arrays.view.table == tuple(seven[3:6])
    assert arrays.view.order is seven[6]
    assert MapArrays.of(seven[:3]).view is None
