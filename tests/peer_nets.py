# SPDX-License-Identifier: MIT
"""Other libraries' networks on dense grids: their names, their kernel orders, plain torch.

It imports nothing from the product. A tensor is a ``Grid``: features with zeros at empty cells, and
a mask of the occupied ones. Everything runs in float64 and in evaluation mode.

The names and orders are those of mit-han-lab/spvnas and torchsparse, MinkowskiEngine's
``examples/minkunet.py`` and CenterPoint's ``det3d/models/backbones/scn.py``.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import nn


class Grid(NamedTuple):
    feats: torch.Tensor  # (B, C, X, Y, Z)
    mask: torch.Tensor  # (B, 1, X, Y, Z), 0 or 1


def x_fastest(size):
    """Taps (x, y, z) in the order of MinkowskiEngine's rows."""
    return [(x, y, z) for z, y, x in itertools.product(*(range(k) for k in reversed(size)))]


def z_fastest(size):
    return list(itertools.product(*(range(k) for k in size)))


def torchsparse_taps(size):
    """The order turns with the parity of the volume."""
    return x_fastest(size) if size[0] * size[1] * size[2] % 2 else z_fastest(size)


def random_parameter(*shape, scale=1.0):
    return nn.Parameter(scale * torch.randn(*shape, dtype=torch.float64))


class Kernel(nn.Module):
    """A convolution of TorchSparse or MinkowskiEngine: rows of taps, (in, out) for one tap."""

    def __init__(self, c_in, c_out, size=3, stride=1, *, taps, transposed=False, bias=False):
        super().__init__()
        self.size, self.stride, self.taps, self.transposed = (size,) * 3, stride, taps, transposed
        scale = (c_in * min(size**3, 8)) ** -0.5
        shape = (c_in, c_out) if size == 1 else (size**3, c_in, c_out)
        self.kernel = random_parameter(*shape, scale=scale)
        self.bias = random_parameter(1, c_out) if bias else None

    def dense(self):
        """(out, in, kx, ky, kz)."""
        rows = self.kernel if self.kernel.dim() == 3 else self.kernel.unsqueeze(0)
        dense = rows.new_zeros(rows.shape[2], rows.shape[1], *self.size)
        for row, (x, y, z) in zip(rows, self.taps(self.size), strict=True):
            dense[:, :, x, y, z] = row.T
        return dense

    def forward(self, grid, target=None):
        padding = 0 if self.stride > 1 else (self.size[0] - 1) // 2
        return convolve(
            grid, self.dense(), self.bias, self.stride, padding, target if self.transposed else None
        )


class SpconvLayer(nn.Module):
    """A convolution of spconv 1: (kz, ky, kx, in, out); its grids have axes z, y, x."""

    def __init__(self, c_in, c_out, size=(3, 3, 3), stride=1, padding=None, *, bias=False):
        super().__init__()
        self.stride = stride
        self.padding = tuple((k - 1) // 2 for k in size) if padding is None else padding
        self.weight = random_parameter(*size, c_in, c_out, scale=(8 * c_in) ** -0.5)
        self.bias = random_parameter(c_out) if bias else None

    def forward(self, grid, target=None):
        return convolve(
            grid, self.weight.permute(4, 3, 0, 1, 2), self.bias, self.stride, self.padding, None
        )


def convolve(grid, weight, bias, stride, padding, target):
    """Submanifold, strided (every window that holds an input), or transposed onto ``target``."""
    if target is not None:
        feats, mask = (
            nnf.conv_transpose3d(grid.feats, weight.transpose(0, 1), stride=stride),
            target,
        )
    else:
        feats = nnf.conv3d(grid.feats, weight, stride=stride, padding=padding)
        ones = torch.ones(1, 1, *weight.shape[2:], dtype=torch.float64)
        is_same = stride in (1, (1, 1, 1))
        reached = nnf.conv3d(grid.mask, ones, stride=stride, padding=padding) > 0
        mask = grid.mask if is_same else reached.double()
    if bias is not None:
        feats = feats + bias.reshape(1, -1, 1, 1, 1)
    return Grid(feats * mask, mask)


class WrappedNorm(nn.Module):
    """MinkowskiEngine's batch norm holds torch's."""

    def __init__(self, channels):
        super().__init__()
        self.bn = norm(channels)


def norm(channels, **options):
    layer = nn.BatchNorm1d(channels, **options).double()
    nn.init.uniform_(layer.running_mean, -0.5, 0.5)
    nn.init.uniform_(layer.running_var, 0.5, 1.5)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.uniform_(layer.bias, -0.5, 0.5)
    return layer.eval()


def run(module, grid, target=None):
    """A layer or a sequence of layers on a grid."""
    if isinstance(module, nn.Sequential):
        for part in module:
            grid = run(part, grid, target)
        return grid
    if isinstance(module, WrappedNorm):
        return run(module.bn, grid)
    if isinstance(module, nn.BatchNorm1d):
        feats = nnf.batch_norm(
            grid.feats,
            module.running_mean,
            module.running_var,
            module.weight,
            module.bias,
            eps=module.eps,
        )
        return grid._replace(feats=feats * grid.mask)
    if isinstance(module, nn.ReLU):
        return grid._replace(feats=grid.feats.relu())
    if isinstance(module, nn.Identity):
        return grid
    return module(grid, target)


def joined(a, b):
    return Grid(torch.cat([a.feats, b.feats], 1), a.mask)


def summed(a, b):
    return Grid((a.feats + b.feats).relu(), a.mask)


# --- mit-han-lab/spvnas, fixed networks ---------------------------------------------------------


def torchsparse_conv(c_in, c_out, size=3, stride=1, **options):
    return Kernel(c_in, c_out, size, stride, taps=torchsparse_taps, **options)


class SpvnasStep(nn.Module):
    def __init__(self, c_in, c_out, **options):
        super().__init__()
        conv = torchsparse_conv(c_in, c_out, 2, 2, **options)
        self.net = nn.Sequential(conv, norm(c_out), nn.ReLU())

    def forward(self, grid, target=None):
        return run(self.net, grid, target)


class SpvnasBlock(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.net = nn.Sequential(
            torchsparse_conv(c_in, c_out),
            norm(c_out),
            nn.ReLU(),
            torchsparse_conv(c_out, c_out),
            norm(c_out),
        )
        self.downsample = nn.Sequential()
        if c_in != c_out:
            self.downsample = nn.Sequential(torchsparse_conv(c_in, c_out, 1), norm(c_out))

    def forward(self, grid, target=None):
        return summed(run(self.net, grid), run(self.downsample, grid))


class SpvnasUNet(nn.Module):
    """MinkUNet as released; its ``point_transforms`` are those of SPVCNN, unused here."""

    def __init__(self, channels, c_in, classes):
        super().__init__()
        c = channels
        self.stem = nn.Sequential()
        for width in (c_in, c[0]):
            self.stem.extend([torchsparse_conv(width, c[0]), norm(c[0]), nn.ReLU()])
        for s in range(1, 5):
            step = SpvnasStep(c[s - 1], c[s - 1])
            blocks = SpvnasBlock(c[s - 1], c[s]), SpvnasBlock(c[s], c[s])
            self.add_module(f"stage{s}", nn.Sequential(step, *blocks))
        for u in range(1, 5):
            out = c[4 + u]
            blocks = nn.Sequential(SpvnasBlock(out + c[4 - u], out), SpvnasBlock(out, out))
            step = SpvnasStep(c[3 + u], out, transposed=True)
            self.add_module(f"up{u}", nn.ModuleList([step, blocks]))
        self.classifier = nn.Sequential(nn.Linear(c[8], classes).double())
        self.point_transforms = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b).double(), norm(b), nn.ReLU())
            for a, b in ((c[0], c[4]), (c[4], c[6]), (c[6], c[8]))
        )

    def forward(self, grid):
        skips = [run(self.stem, grid)]
        for s in range(1, 5):
            skips.append(run(getattr(self, f"stage{s}"), skips[-1]))
        grid = skips.pop()
        for u in range(1, 5):
            step, blocks = getattr(self, f"up{u}")
            skip = skips.pop()
            grid = run(blocks, joined(step(grid, skip.mask), skip))
        return linear(grid, self.classifier[0].weight, self.classifier[0].bias)


def linear(grid, weight, bias):
    feats = torch.einsum("bcxyz,oc->boxyz", grid.feats, weight) + bias.reshape(1, -1, 1, 1, 1)
    return Grid(feats * grid.mask, grid.mask)


# --- mit-han-lab/spvnas, searched networks ------------------------------------------------------


class SearchedConv(nn.Module):
    def __init__(self, c_in, c_out, size=3, stride=1, *, relu=True, **options):
        super().__init__()
        conv = torchsparse_conv(c_in, c_out, size, stride, **options)
        act = nn.ReLU() if relu else nn.Sequential()
        self.net = nn.Sequential(OrderedDict(conv=conv, bn=norm(c_out), act=act))

    def forward(self, grid, target=None):
        return run(self.net, grid, target)


class SearchedBlock(nn.Module):
    def __init__(self, c_in, mid, c_out, *, has_shortcut):
        super().__init__()
        self.net = nn.Sequential(SearchedConv(c_in, mid), SearchedConv(mid, c_out, relu=False))
        self.downsample = (
            SearchedConv(c_in, c_out, 1, relu=False) if has_shortcut else nn.Identity()
        )

    def forward(self, grid, target=None):
        return summed(run(self.net, grid), run(self.downsample, grid))


class SearchedUNet(nn.Module):
    """``stages``: (transition, mids, out) down, then up; the classifier is wider."""

    def __init__(self, stages, c_in, classes, *, stem=4, supernet_width=16):
        super().__init__()
        self.stem = nn.Sequential()
        for width in (c_in, stem):
            self.stem.extend([torchsparse_conv(width, stem), norm(stem), nn.ReLU()])
        half, skips, width = len(stages) // 2, [stem], stem
        sides = {"downsample": nn.ModuleList(), "upsample": nn.ModuleList()}
        for number, (transition, mids, out) in enumerate(stages):
            is_up = number >= half
            step = SearchedConv(width, transition, 2, 2, transposed=is_up)
            if number == half:
                skips.pop()
            width = transition + skips.pop() if is_up else transition
            blocks = []
            for place, mid in enumerate(mids):
                blocks.append(SearchedBlock(width, mid, out, has_shortcut=place == 0))
                width = out
            sides["upsample" if is_up else "downsample"].append(
                nn.Sequential(OrderedDict(transition=step, feature=nn.Sequential(*blocks)))
            )
            if not is_up:
                skips.append(out)
        self.downsample, self.upsample = sides["downsample"], sides["upsample"]
        outs = [stem, stages[half - 1][2], stages[half + 1][2], stages[-1][2]]
        self.point_transforms = nn.ModuleList()
        for a, b in itertools.pairwise(outs):
            holder = nn.Module()
            layers = OrderedDict(conv=nn.Linear(a, b).double(), bn=norm(b), act=nn.ReLU())
            holder.net = nn.Sequential(layers)
            self.point_transforms.append(holder)
        self.classifier = nn.Module()
        self.classifier.linear = nn.Linear(supernet_width, classes).double()

    def forward(self, grid):
        skips = [run(self.stem, grid)]
        for stage in self.downsample:
            skips.append(run(stage, skips[-1]))
        grid = skips.pop()
        for stage in self.upsample:
            skip = skips.pop()
            grid = run(stage.feature, joined(stage.transition(grid, skip.mask), skip))
        weight = self.classifier.linear.weight[:, : grid.feats.shape[1]]
        return linear(grid, weight, self.classifier.linear.bias)


# --- MinkowskiEngine, examples/minkunet.py ------------------------------------------------------


def minkowski_conv(c_in, c_out, size=3, stride=1, **options):
    return Kernel(c_in, c_out, size, stride, taps=x_fastest, **options)


class BasicBlock(nn.Module):
    """Of MinkowskiEngine and of CenterPoint."""

    def __init__(self, c_in, c_out, conv=minkowski_conv, norm=WrappedNorm, norm_name="norm"):
        super().__init__()
        self.conv1, self.conv2 = conv(c_in, c_out), conv(c_out, c_out)
        self.add_module(f"{norm_name}1", norm(c_out))
        self.add_module(f"{norm_name}2", norm(c_out))
        self.norm_name = norm_name
        self.downsample = None
        if c_in != c_out:
            self.downsample = nn.Sequential(conv(c_in, c_out, 1), norm(c_out))

    def forward(self, grid, target=None):
        first = getattr(self, f"{self.norm_name}1"), nn.ReLU()
        inner = run(nn.Sequential(self.conv1, *first), grid)
        outer = run(nn.Sequential(self.conv2, getattr(self, f"{self.norm_name}2")), inner)
        return summed(outer, grid if self.downsample is None else run(self.downsample, grid))


class MinkowskiUNet(nn.Module):
    def __init__(self, planes, layers, c_in, classes, *, stem=4):
        super().__init__()
        self.conv0p1s1, self.bn0 = minkowski_conv(c_in, stem, 5), WrappedNorm(stem)
        width = stem
        for s in range(1, 5):
            self.add_module(f"conv{s}p{2 ** (s - 1)}s2", minkowski_conv(width, width, 2, 2))
            self.add_module(f"bn{s}", WrappedNorm(width))
            self.add_module(f"block{s}", self.blocks(width, planes[s - 1], layers[s - 1]))
            width = planes[s - 1]
        for s, skip in zip(range(4, 8), (planes[2], planes[1], planes[0], stem), strict=True):
            up = minkowski_conv(width, planes[s], 2, 2, transposed=True)
            self.add_module(f"convtr{s}p{2 ** (8 - s)}s2", up)
            self.add_module(f"bntr{s}", WrappedNorm(planes[s]))
            self.add_module(f"block{s + 1}", self.blocks(planes[s] + skip, planes[s], layers[s]))
            width = planes[s]
        self.final = minkowski_conv(width, classes, 1, bias=True)

    def blocks(self, c_in, c_out, count):
        rest = (BasicBlock(c_out, c_out) for _ in range(count - 1))
        return nn.Sequential(BasicBlock(c_in, c_out), *rest)

    def forward(self, grid):
        skips = [run(nn.Sequential(self.conv0p1s1, self.bn0, nn.ReLU()), grid)]
        for s in range(1, 5):
            step = getattr(self, f"conv{s}p{2 ** (s - 1)}s2"), getattr(self, f"bn{s}"), nn.ReLU()
            down = run(nn.Sequential(*step), skips[-1])
            skips.append(run(getattr(self, f"block{s}"), down))
        grid = skips.pop()
        for s in range(4, 8):
            skip = skips.pop()
            up = getattr(self, f"convtr{s}p{2 ** (8 - s)}s2")(grid, skip.mask)
            up = run(nn.Sequential(getattr(self, f"bntr{s}"), nn.ReLU()), up)
            grid = run(getattr(self, f"block{s + 1}"), joined(up, skip))
        return self.final(grid)


# --- CenterPoint, SpMiddleResNetFHD -------------------------------------------------------------


def centerpoint_norm(channels):
    return norm(channels, eps=1e-3, momentum=0.01)


def centerpoint_block(channels):
    def conv(a, b):
        return SpconvLayer(a, b, bias=True)

    return BasicBlock(channels, channels, conv, centerpoint_norm, "bn")


def centerpoint_step(c_in, c_out, size=(3, 3, 3), stride=1, padding=None):
    conv = SpconvLayer(c_in, c_out, size, stride, padding)
    return conv, centerpoint_norm(c_out), nn.ReLU()


class CenterPointEncoder(nn.Module):
    """Grids are (B, C, Z, Y, X)."""

    def __init__(self, c_in, widths=(16, 32, 64, 128)):
        super().__init__()
        a, b, c, d = widths
        self.conv_input = nn.Sequential(*centerpoint_step(c_in, a))
        self.conv1 = nn.Sequential(centerpoint_block(a), centerpoint_block(a))
        for number, (c_in, c_out, pad) in enumerate(((a, b, 1), (b, c, 1), (c, d, 0)), 2):
            step = centerpoint_step(c_in, c_out, stride=2, padding=(pad, 1, 1))
            blocks = centerpoint_block(c_out), centerpoint_block(c_out)
            self.add_module(f"conv{number}", nn.Sequential(*step, *blocks))
        last = centerpoint_step(d, d, (3, 1, 1), (2, 1, 1), (0, 0, 0))
        self.extra_conv = nn.Sequential(*last)

    def forward(self, grid):
        """(B, C * Z', Y', X')."""
        names = ("conv_input", "conv1", "conv2", "conv3", "conv4", "extra_conv")
        for name in names:
            grid = run(getattr(self, name), grid)
        return grid.feats.flatten(1, 2)
