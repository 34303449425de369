# SPDX-License-Identifier: MIT
"""Weights of other libraries: kernel orders tap by tap, whole networks, files, every error."""

from __future__ import annotations

import pickle
import random
import resource

import clouds
import oracle
import peer_nets
import pytest
import torch
from house_form import provoke
from peer_nets import Grid
from torch import nn

import torchsparse_lite as tsl
from torchsparse_lite import compat, models
from torchsparse_lite import nn as spnn

# Library, and whether its kernels are (taps, in, out) with this tap order.
ROWS = {
    "torchsparse_lite": peer_nets.z_fastest,
    "torchsparse": peer_nets.torchsparse_taps,
    "minkowski_engine": peer_nets.x_fastest,
}
SIZES = [(3, 3, 3), (2, 2, 2), (1, 1, 1), (3, 1, 5), (3, 2, 1), (1, 3, 3)]


def stored(source, size, tap, matrix):
    """A kernel of the library that is zero but for the (in, out) matrix at one tap (x, y, z)."""
    c_in, c_out = matrix.shape
    if source in ROWS:
        taps = ROWS[source](size)
        weight = torch.zeros(len(taps), c_in, c_out, dtype=matrix.dtype)
        weight[taps.index(tap)] = matrix
        return weight[0] if len(taps) == 1 and source != "torchsparse_lite" else weight
    if source == "spconv":
        weight = torch.zeros(c_out, *size, c_in, dtype=matrix.dtype)
        weight[(slice(None), *tap)] = matrix.T
    elif source == "spconv_2_0":
        weight = torch.zeros(*size, c_out, c_in, dtype=matrix.dtype)
        weight[tap] = matrix.T
    else:
        weight = torch.zeros(*size, c_in, c_out, dtype=matrix.dtype)
        weight[tap] = matrix
    return weight


def offset_of(tap, size):
    """Where the tap looks: centred for odd sizes, from zero for size 2."""
    return tuple(t - (k - 1) // 2 for t, k in zip(tap, size, strict=True))


def moved(x, layer, offset, matrix):
    """What the layer must give: ``in[stride * coarse + offset] @ matrix``, read either way."""
    row_of = {tuple(site): row for row, site in enumerate(x.coords.tolist())}
    y = layer(x)
    expected = torch.zeros(len(y), matrix.shape[1], dtype=matrix.dtype)
    for row, (batch, *site) in enumerate(y.coords.tolist()):
        if layer.window.transposed:
            shifted = [c - d for c, d in zip(site, offset, strict=True)]
            rest = [c % s for c, s in zip(shifted, layer.stride, strict=True)]
            source = [c // s for c, s in zip(shifted, layer.stride, strict=True)]
            found = None if any(rest) else row_of.get((batch, *source))
        else:
            parts = zip(site, layer.stride, offset, strict=True)
            found = row_of.get((batch, *(s * c + d for c, s, d in parts)))
        if found is not None:
            expected[row] = x.feats[found] @ matrix
    assert expected.abs().sum() > 0
    return y.feats, expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("source", compat.SOURCES)
def test_a_one_hot_kernel_moves_features_as_in_its_library(source, size):
    """Submanifold, strided by either rule, and transposed, for every tap."""
    matrix = clouds.random_values(2, 3)
    fine = clouds.solid_coords((4, 5, 6))
    x = tsl.SparseTensor(clouds.random_values(len(fine), 2), fine)
    padding = tuple((k - 1) // 2 for k in size)
    options = {"bias": False, "dtype": torch.float64}
    kinds = [
        spnn.Conv3d(2, 3, size, **options),
        spnn.Conv3d(2, 3, size, 2, padding, **options),
        spnn.Conv3d(2, 3, size, 2, padding, rule="cell", **options),
        spnn.Conv3d(2, 3, size, 2, padding, transposed=True, generative=True, **options),
    ]
    coarse = tsl.SparseTensor(x.feats, fine, stride=2)
    for tap in oracle.taps_of(size):
        weight = compat.convert_kernel(stored(source, size, tap, matrix), source, size)
        for layer in kinds:
            layer.weight.data.copy_(weight)
            given = coarse if layer.window.transposed else x
            clouds.assert_close(*moved(given, layer, offset_of(tap, size), matrix), tolerance=1e-12)


def test_rows_that_were_measured_in_the_libraries():
    """An input at the origin and the row that feeds +x, +y, +z, from running them."""
    rows = torch.arange(27.0).reshape(27, 1, 1)
    in_3 = compat.convert_kernel(rows, "minkowski_engine").flatten()
    assert in_3[[4, 10, 12, 13]].tolist() == [12, 10, 4, 13]
    in_2 = compat.convert_kernel(rows[:8], "minkowski_engine", 2).flatten()
    assert in_2[[4, 2, 1]].tolist() == [1, 2, 4]
    assert compat.convert_kernel(rows[:8], "torchsparse", 2).equal(rows[:8])
    spconv = compat.convert_kernel(rows.reshape(1, 3, 3, 3, 1), "spconv").flatten()
    assert spconv[[4, 10, 12, 13]].tolist() == [4, 10, 12, 13]


@pytest.mark.parametrize("source", ["spconv", "spconv_1", "spconv_2_0"])
def test_reversed_axes_turn_the_tap(source):
    """A layer on z, y, x columns with kernel (kz, ky, kx) becomes one of kernel (kx, ky, kz)."""
    matrix = clouds.random_values(2, 3)
    for x, y, z in oracle.taps_of((1, 2, 3)):
        theirs = stored(source, (3, 2, 1), (z, y, x), matrix)
        ours = compat.convert_kernel(theirs, source, (1, 2, 3), reverse_axes=True)
        expected = stored("torchsparse_lite", (1, 2, 3), (x, y, z), matrix)
        assert ours.equal(expected)


def test_kernels_of_2d_layers_and_channelwise_ones():
    flat = torch.arange(9.0).reshape(1, 3, 3, 1)
    assert compat.convert_kernel(flat, "spconv", (3, 3, 1)).flatten().equal(torch.arange(9.0))
    depthwise = torch.arange(54.0).reshape(27, 2)
    rows = compat.convert_kernel(depthwise, "minkowski_engine")
    assert rows.shape == (27, 1, 2)
    assert rows[4].equal(depthwise[12:13])
    single = torch.ones(1, 5)
    assert compat.convert_kernel(single, "minkowski_engine", 1).shape == (1, 1, 5)


def settle(network):
    """Other values than those of any checkpoint; float64, evaluation mode."""
    for value in network.state_dict().values():
        value.fill_(7)
    return network.double().eval()


def grid_of(shape=(16, 16, 16), channels=3, num=300, batch_size=2):
    """Random sites, as a sparse tensor and as a dense grid."""
    coords = clouds.box_coords(shape, num, batch_size=batch_size)
    feats = clouds.random_values(len(coords), channels)
    x = tsl.SparseTensor(feats, coords, spatial_shape=shape, batch_size=batch_size)
    ones = torch.ones(len(coords), 1, dtype=torch.float64)
    dense = (oracle.scatter_dense(coords, f, shape, batch_size) for f in (feats, ones))
    return x, Grid(*dense)


CHANNELS = (4, 4, 5, 6, 8, 7, 6, 5, 4)


def spvnas_pair():
    torch.manual_seed(0)
    peer = peer_nets.SpvnasUNet(CHANNELS, 3, 5)
    return peer, models.UNetShape.of(CHANNELS, (2,) * 8)


def check_outputs(network, peer):
    x, grid = grid_of()
    with torch.no_grad():
        expected = oracle.gather_dense(peer(grid).feats, x.coords)
        clouds.assert_close(network(x).feats, expected, tolerance=1e-10)


@torch.no_grad()
def test_a_released_minkunet_computes_the_same_here():
    peer, shape = spvnas_pair()
    network = settle(models.MinkUNet(3, 5, shape))
    left_out = compat.load_spvnas({"model": peer.state_dict(), "epoch": 15}, network)
    assert left_out == tuple(n for n in peer.state_dict() if n.startswith("point_transforms"))
    check_outputs(network, peer)


def test_a_released_spvcnn_finds_all_its_parts():
    peer, shape = spvnas_pair()
    state = {f"module.{name}": value for name, value in peer.state_dict().items()}
    network = settle(models.SPVCNN(3, 5, shape, voxel_size=1.0))
    assert compat.load_spvnas({"model": state}, network) == ()
    unet = settle(models.MinkUNet(3, 5, shape))
    compat.load_spvnas(peer.state_dict(), unet)
    ours = network.state_dict()
    for name, value in unet.state_dict().items():
        where = name if name.startswith("classifier") else f"unet.{name}"
        assert ours[where].equal(value), name
    branches = list(network.points)
    assert branches == ["0_4", "4_6", "6_8"]
    for name, value in peer.point_transforms.state_dict().items():
        number, rest = name.split(".", 1)
        assert ours[f"points.{branches[int(number)]}.{rest}"].equal(value)


def test_the_released_names_and_shapes_at_full_width():
    """A few of section 2.9 of the notes, by hand; every other one by the round trip above."""
    wide = peer_nets.SpvnasUNet((32, 32, 64, 128, 256, 256, 128, 96, 96), 4, 19).state_dict()
    shapes = {
        "stem.0.kernel": (27, 4, 32),
        "stem.4.running_mean": (32,),
        "stage1.0.net.0.kernel": (8, 32, 32),
        "stage2.1.net.3.kernel": (27, 64, 64),
        "stage2.1.downsample.0.kernel": (32, 64),
        "up1.0.net.0.kernel": (8, 256, 256),
        "up1.1.0.downsample.0.kernel": (384, 256),
        "up4.1.1.net.4.bias": (96,),
        "point_transforms.2.0.weight": (96, 128),
        "classifier.0.weight": (19, 96),
    }
    assert {name: tuple(wide[name].shape) for name in shapes} == shapes
    network = models.spvcnn()
    compat.load_spvnas(wide, network)
    assert len(wide) == len(network.state_dict())


@torch.no_grad()
def test_a_searched_spvnas_computes_the_same_here():
    torch.manual_seed(0)
    down = [(3, (5, 4), 6), (5, (3,), 7)]
    up = [(6, (4, 3), 5), (4, (6,), 9)]
    peer = peer_nets.SearchedUNet(down + up, 3, 5)
    stages = [models.Stage(out, len(mids), transition, mids) for transition, mids, out in down + up]
    shape = models.UNetShape((4, 4), tuple(stages[:2]), tuple(stages[2:]))
    network = settle(models.MinkUNet(3, 5, shape))
    compat.load_spvnas(peer.state_dict(), network)
    check_outputs(network, peer)


def test_a_searched_spvcnn_finds_all_its_parts():
    """Four stages down and up, as released: three point layers."""
    torch.manual_seed(0)
    down = [(3, (5,), 6), (5, (3, 4), 7), (6, (4,), 8), (7, (5,), 9)]
    up = [(8, (4,), 7), (5, (4,), 6), (4, (4, 3), 5), (3, (6,), 6)]
    peer = peer_nets.SearchedUNet(down + up, 3, 5)
    stages = [models.Stage(out, len(mids), transition, mids) for transition, mids, out in down + up]
    shape = models.UNetShape((4, 4), tuple(stages[:4]), tuple(stages[4:]))
    network = settle(models.SPVCNN(3, 5, shape))
    assert compat.load_spvnas(peer.state_dict(), network) == ()
    assert len(peer.state_dict()) == len(network.state_dict())
    loaded, source = network.state_dict(), peer.state_dict()
    pairs = {
        "unet.down.1.blocks.1.second.1.bias": "downsample.1.feature.1.net.1.net.bn.bias",
        "unet.up.2.blocks.0.shortcut.1.bias": "upsample.2.feature.0.downsample.net.bn.bias",
        "unet.up.0.transition.0.weight": "upsample.0.transition.net.conv.kernel",
        "points.4_6.0.weight": "point_transforms.1.net.conv.weight",
        "points.6_8.1.running_var": "point_transforms.2.net.bn.running_var",
        "classifier.bias": "classifier.linear.bias",
    }
    for ours, theirs in pairs.items():
        assert loaded[ours].equal(source[theirs]), ours
    assert loaded["classifier.weight"].equal(source["classifier.linear.weight"][:, :6])


@torch.no_grad()
@pytest.mark.parametrize("layers", [(2, 2, 2, 2, 2, 2, 2, 2), (2, 3, 4, 6, 2, 2, 2, 2)])
def test_a_minkowski_unet_computes_the_same_here(layers):
    torch.manual_seed(0)
    peer = peer_nets.MinkowskiUNet(CHANNELS[1:], layers, 3, 5)
    shape = models.UNetShape.of(CHANNELS, layers, stem_depth=1, stem_kernel=5)
    network = settle(models.MinkUNet(3, 5, shape))
    assert compat.load_minkowski_unet({"state_dict": peer.state_dict()}, network) == ()
    check_outputs(network, peer)


def test_the_presets_have_the_names_of_minkunet_18_and_34():
    """MinkUNet34C with 20 classes: names as in MinkowskiEngine's example."""
    planes = (32, 64, 128, 256, 256, 128, 96, 96)
    for preset, layers in (("18", (2,) * 8), ("34", (2, 3, 4, 6, 2, 2, 2, 2))):
        state = peer_nets.MinkowskiUNet(planes, layers, 3, 20, stem=32).state_dict()
        for name in ("conv0p1s1.kernel", "bn0.bn.weight", "conv4p8s2.kernel", "final.bias"):
            assert name in state
        assert "convtr4p16s2.kernel" in state
        assert "block5.0.downsample.1.bn.running_var" in state
        network = models.minkunet(preset, in_channels=3, num_classes=20)
        compat.load_minkowski_unet(state, network)
        assert len(state) == len(network.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("layout", ["spconv_1", "spconv"])
def test_a_centerpoint_encoder_computes_the_same_here(layout):
    torch.manual_seed(0)
    peer = peer_nets.CenterPointEncoder(5, (4, 5, 6, 8))
    state = {f"backbone.{name}": value for name, value in peer.state_dict().items()}
    if layout == "spconv":
        state = {n: v.permute(4, 0, 1, 2, 3) if v.dim() == 5 else v for n, v in state.items()}
    state["neck.blocks.0.weight"] = torch.ones(2)
    down = (models.EncoderStage(5), models.EncoderStage(6), models.EncoderStage(8, 2, (1, 1, 0)))
    shape = models.EncoderShape(4, 2, down, 8, (20, 16, 41))
    network = settle(models.BEVEncoder(5, shape))
    left_out = compat.load_centerpoint({"state_dict": state}, network, source=layout)
    assert left_out == ("neck.blocks.0.weight",)
    x, grid = grid_of((20, 16, 41), 5, 250)
    turned = Grid(*(part.permute(0, 1, 4, 3, 2) for part in grid))
    expected = peer(turned)
    assert expected.abs().sum() > 0
    clouds.assert_close(network(x), expected.transpose(2, 3), tolerance=1e-10)


def layers(channels=3):
    return spnn.Sequential(
        spnn.Conv3d(channels, 4, 3), spnn.BatchNorm(4), spnn.ReLU(), spnn.Linear(4, 2)
    )


def test_rules_and_functions_rename():
    """TorchSparse names with a prefix of one's own."""
    network, peer = layers(), layers()
    taps = peer_nets.torchsparse_taps((3, 3, 3))
    order = torch.tensor([oracle.taps_of(3).index(tap) for tap in taps])
    state = {f"net.{name}": value for name, value in peer.state_dict().items()}
    state["net.0.kernel"] = state.pop("net.0.weight")[order]
    state["head.weight"] = torch.ones(1)
    rules = [(r"^net\.", ""), (r"^head", None)]
    left_out = compat.load_weights(network, state, source="torchsparse", rename=rules)
    assert left_out == ("head.weight",)
    again = layers()

    def rename(name):
        return None if name.startswith("head") else name.removeprefix("net.")

    compat.load_weights(again, state, source="torchsparse", rename=rename)
    for name, value in peer.state_dict().items():
        assert network.state_dict()[name].equal(value)
        assert again.state_dict()[name].equal(value)


@pytest.mark.parametrize("source", ["torchsparse_lite", "torchsparse", "spconv"])
def test_layers_that_leave_taps_out_take_theirs_of_a_whole_kernel(source):
    """And their own as they are."""
    taps = tsl.STENCILS[7]
    few, again = (spnn.Sequential(spnn.Conv3d(2, 3, 3, taps=taps, bias=False)) for _ in range(2))
    size, matrix = (3, 3, 3), torch.ones(2, 3)
    whole = sum(
        stored(source, size, tap, (1.0 + number) * matrix)
        for number, tap in enumerate(peer_nets.z_fastest(size))
    )
    compat.load_weights(few, {"0.weight": whole}, source=source)
    assert few[0].weight[:, 0, 0].tolist() == [1.0 + tap for tap in taps]
    compat.load_weights(again, few.state_dict())
    assert again[0].weight.equal(few[0].weight)
    wrong = {"0.weight": torch.zeros(9, 2, 3)}
    provoke(ValueError, ["0.weight", "(9, 2, 3)"], lambda: compat.load_weights(few, wrong))


def test_kept_layers_keep_their_values():
    network, peer = layers(), layers()
    head = network[3].weight.clone()
    state = peer.state_dict()
    assert compat.load_weights(network, state, keep=r"3\.") == ("3.weight", "3.bias")
    assert network[3].weight.equal(head)
    assert network[0].weight.equal(peer[0].weight)
    del state["3.weight"], state["3.bias"]
    assert compat.load_weights(network, state, keep=r"3\.") == ()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_saved_weights_come_back(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    network, other = layers(), layers()
    network[1].running_mean += 1
    compat.save_weights(network, path)
    compat.save_weights(network, str(path))  # over the earlier one
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    compat.load_weights(other, path)
    for name, value in network.state_dict().items():
        assert other.state_dict()[name].equal(value)
        assert compat.read_weights(path)[name].equal(value)
    half = layers().half()
    compat.load_weights(half, path)
    assert half[0].weight.equal(network[0].weight.half())


def test_shared_and_wrapped_weights_are_saved(tmp_path):
    """Two names of one parameter; a network whose only child is called module."""
    network = nn.Module()
    network.module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    network.module[1].weight = network.module[0].weight
    path = tmp_path / "net.safetensors"
    compat.save_weights(network, path)
    compat.load_weights(network, path)
    compiled = {f"_orig_mod.{n}": v for n, v in network.module.state_dict().items()}
    wrapped = {f"module.{n}": v for n, v in compiled.items()}
    other = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    compat.load_weights(other, wrapped)
    for name, value in network.module.state_dict().items():
        assert other.state_dict()[name].equal(value)


def test_permissions_are_those_of_any_new_file(tmp_path):
    compat.save_weights(layers(), tmp_path / "net.pt")
    (tmp_path / "plain").touch()
    assert (tmp_path / "net.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_full_disk_leaves_the_earlier_file(tmp_path, suffix):
    """The limit of the process stands for that of the disk: write fails half-way."""
    path = tmp_path / f"net{suffix}"
    compat.save_weights(layers(), path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        provoke(
            OSError,
            (f"save_weights: {path}", "too large", "Make room for", "unchanged"),
            lambda: compat.save_weights(layers(), path),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_folders_are_made_where_they_can_be(tmp_path):
    compat.save_weights(layers(), tmp_path / "new" / "net.pt")
    assert (tmp_path / "new" / "net.pt").is_file()
    path = tmp_path / "new" / "net.pt" / "net.pt"
    provoke(OSError, ("writable", "exists"), lambda: compat.save_weights(layers(), path))


def damaged(path, tmp_path, change):
    copy = tmp_path / f"damaged{path.suffix}"
    copy.write_bytes(change(path.read_bytes()))
    return copy


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".legacy"])
def test_damaged_files_are_refused(tmp_path, suffix):
    """Cut anywhere, empty, text; and, where the format has sums, one wrong bit in a weight."""
    path = tmp_path / f"net{suffix}"
    if suffix == ".legacy":
        torch.save(layers().state_dict(), path, _use_new_zipfile_serialization=False)
    else:
        compat.save_weights(layers(), path)
    size = path.stat().st_size
    compat.load_weights(layers(), path)
    cuts = [0, 1, 7, 30, size // 3, size // 2, size - 100, size - 1]
    for cut in cuts:
        file = damaged(path, tmp_path, lambda data, n=cut: data[:n])
        words = ("read_weights: path", str(file), "copy or download it again")
        provoke(ValueError, words, lambda file=file: compat.load_weights(layers(), file))
    text = damaged(path, tmp_path, lambda _: b"<html>404 not found</html>" * 9)
    provoke(ValueError, ("again",), lambda: compat.read_weights(text))
    if suffix == ".pt":
        place = path.read_bytes().index(layers().state_dict()["1.weight"].numpy().tobytes())
        flip = damaged(path, tmp_path, lambda d: d[:place] + b"\xff" + d[place + 1 :])
        provoke(ValueError, ("checksum", "again"), lambda: compat.read_weights(flip))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own word on wrong bytes
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".legacy"])
def test_random_damage_ends_in_one_of_our_messages(tmp_path, suffix):
    """Or goes unnoticed, where the format has no sums."""
    path = tmp_path / f"net{suffix}"
    if suffix == ".legacy":
        torch.save(layers().state_dict(), path, _use_new_zipfile_serialization=False)
    else:
        compat.save_weights(layers(), path)
    whole, draw = path.read_bytes(), random.Random(0)
    messages = []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 3, 20))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            compat.read_weights(path)
        except ValueError as problem:
            messages.append(str(problem))
    assert len(messages) > 50
    assert all(text.startswith("read_weights: path must be ") for text in messages)


class Custom:
    """What a checkpoint of somebody's training program may hold."""


def test_a_pickle_that_needs_code_is_refused(tmp_path):
    for protocol in (True, False):
        path = tmp_path / "net.pt"
        torch.save(
            {"model": layers().state_dict(), "config": Custom()},
            path,
            _use_new_zipfile_serialization=protocol,
        )
        words = ("tensors alone", "Custom", "weights_only=False", "state_dict()")
        provoke(ValueError, words, lambda path=path: compat.read_weights(path))
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps({"config": Custom()}, protocol=2))
    provoke(ValueError, ("read_weights: path",), lambda: compat.read_weights(plain))


def with_changes(**changes):
    state = layers().state_dict()
    for name, value in changes.items():
        state[name.replace("_", ".", 1)] = value
    return {name: value for name, value in state.items() if value is not None}


def load(state, **options):
    compat.load_weights(layers(), state, **options)


TABLE = [
    (TypeError, ("convert_kernel: weight", "Tensor"),
     lambda: compat.convert_kernel([1], "spconv")),
    (ValueError, ("convert_kernel: source", "spconv_1", "'caffe'"),
     lambda: compat.convert_kernel(torch.ones(27, 1, 1), "caffe")),
    (ValueError, ("convert_kernel: weight", "(3, 3, 3, i, o)", "27 taps", "(8, 2, 3)"),
     lambda: compat.convert_kernel(torch.ones(8, 2, 3), "torchsparse", 3)),
    (ValueError, ("(o, 1, 3, 3, i)", "(4, 3, 3, 1, 2)", "reverse_axes="),
     lambda: compat.convert_kernel(torch.ones(4, 3, 3, 1, 2), "spconv", (1, 3, 3))),
    (ValueError, ("(2,)",),
     lambda: compat.convert_kernel(torch.ones(2), "spconv", 1)),
    (ValueError, ("kernel_size",),
     lambda: compat.convert_kernel(torch.ones(27, 1, 1), "spconv", 0)),
    (ValueError, ("load_weights: source",), lambda: load({}, source="caffe")),
    (TypeError, ("load_weights: network", "Module"),
     lambda: compat.load_weights({}, layers())),
    (TypeError, ("load_spvnas: network",), lambda: compat.load_spvnas({}, {})),
    (TypeError, ("load_minkowski_unet: network",), lambda: compat.load_minkowski_unet({}, {})),
    (TypeError, ("load_centerpoint: network",), lambda: compat.load_centerpoint({}, {})),
    (ValueError, ("load_centerpoint: source",),
     lambda: compat.load_centerpoint({}, layers(), source="torchsparse")),
    (ValueError, ("load_centerpoint: conv1.0.conv1.bias", "(3,)", "(4,)"),
     lambda: compat.load_centerpoint(
         {"conv1.0.conv1.bias": torch.ones(4), "conv1.0.bn1.running_mean": torch.ones(3)},
         layers())),
    (TypeError, ("load_weights: state", "Mapping", "list"), lambda: load([1])),
    (TypeError, ("mapping of names to tensors", "int at 'epoch'", "checkpoint['model']"),
     lambda: load(with_changes() | {"epoch": 3})),
    (TypeError, ("Tensor at 3",), lambda: load({3: torch.ones(1)})),
    (ValueError, ("names in state", "1 (0.weight) missing and none left over", "keep="),
     lambda: load(with_changes(**{"0_weight": None}))),
    (ValueError, ("none missing and 1 (extra.w) left over",),
     lambda: load(with_changes(extra_w=torch.ones(1)))),
    (ValueError, ("9 (", ", ...) missing"), lambda: load({})),
    (ValueError, ("load_weights: rename", "one name for one tensor", "a for x.a and y.a"),
     lambda: load({"x.a": torch.ones(1), "y.a": torch.ones(1)}, rename=[("^..", "")])),
    (ValueError, ("load_weights: 3.weight", "(2, 4)", "(5, 4)", "keep="),
     lambda: load(with_changes(**{"3_weight": torch.ones(5, 4)}))),
    (ValueError, ("load_weights: 0.weight", "(27, 3, 4)", "(27, 2, 4)"),
     lambda: load(with_changes(**{"0_weight": torch.ones(27, 2, 4)}))),
    (ValueError, ("load_weights: 0.weight", "27 taps", "(8, 3, 4)", "kernel size"),
     lambda: load(with_changes(**{"0_weight": torch.ones(8, 3, 4)}))),
    (FileNotFoundError, ("read_weights: path", "nowhere.pt"),
     lambda: load("nowhere.pt")),
    (TypeError, ("save_weights: network",), lambda: compat.save_weights({}, "net.pt")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "words", "call"), TABLE)
def test_errors(kind, words, call):
    provoke(kind, words, call)


def test_a_refused_state_changes_nothing():
    network = layers()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = with_changes(**{"3_weight": torch.ones(5, 4), "0_bias": torch.ones(4)})
    with pytest.raises(ValueError, match="of shape"):
        compat.load_weights(network, state)
    assert all(network.state_dict()[name].equal(value) for name, value in before.items())


def test_a_stream_of_tensors_alone_is_read_whatever_its_nesting(tmp_path):
    path, saved, loaded = tmp_path / "net.ckpt", layers(), layers()
    torch.save({"epoch": 3, "model": {"state_dict": saved.state_dict()}}, path)
    compat.load_weights(loaded, path)
    for name, values in loaded.state_dict().items():
        torch.testing.assert_close(values, saved.state_dict()[name], rtol=0, atol=0)


def test_without_safetensors_the_extra_is_named(tmp_path, monkeypatch):
    """The import system itself is told that the package is not there."""
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    words = ("package safetensors", "torchsparse_lite[safetensors]")
    path = tmp_path / "net.safetensors"
    provoke(RuntimeError, words, lambda: compat.save_weights(layers(), path))
    path.touch()
    provoke(RuntimeError, words, lambda: compat.read_weights(path))
