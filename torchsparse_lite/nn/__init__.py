# SPDX-License-Identifier: MIT
"""Layers for sparse tensors.

They train in ``torch.nn.parallel.DistributedDataParallel`` as they are. Only with its option
``find_unused_parameters`` must the wrapped module return ``x.feats`` instead of ``x``: torch then
looks for the parameters behind its output, and does not find the tensor inside a SparseTensor.
"""

from torchsparse_lite.nn import functional
from torchsparse_lite.nn.activation import (
    ELU,
    GELU,
    Dropout,
    Hardsigmoid,
    Hardswish,
    Identity,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from torchsparse_lite.nn.compose import conv_norm, conv_norm_relu, shared_mlp
from torchsparse_lite.nn.container import Sequential
from torchsparse_lite.nn.conv import Conv3d
from torchsparse_lite.nn.fuse import ConvReLU, fold_batch_norm, fuse
from torchsparse_lite.nn.linear import Linear
from torchsparse_lite.nn.norm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, SyncBatchNorm
from torchsparse_lite.nn.point_set import FeaturePropagation, SetAbstraction
from torchsparse_lite.nn.point_voxel import PVConv, SPVConv
from torchsparse_lite.nn.pooling import (
    AvgPool3d,
    GlobalAvgPool,
    GlobalMaxPool,
    GlobalSumPool,
    MaxPool3d,
    SumPool3d,
    Unpool3d,
    Upsample,
)
from torchsparse_lite.nn.squeeze_excitation import SqueezeExcitation

__all__ = [
    "ELU",
    "GELU",
    "AvgPool3d",
    "BatchNorm",
    "Conv3d",
    "ConvReLU",
    "Dropout",
    "FeaturePropagation",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GlobalSumPool",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "InstanceNorm",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool3d",
    "Mish",
    "PReLU",
    "PVConv",
    "ReLU",
    "ReLU6",
    "SPVConv",
    "Sequential",
    "SetAbstraction",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "SqueezeExcitation",
    "SumPool3d",
    "SyncBatchNorm",
    "Tanh",
    "Unpool3d",
    "Upsample",
    "conv_norm",
    "conv_norm_relu",
    "fold_batch_norm",
    "functional",
    "fuse",
    "shared_mlp",
]
