# SPDX-License-Identifier: MIT
"""Networks. Width and depth are data; see the presets."""

from torchsparse_lite.models.bev_encoder import (
    ENCODERS,
    BEVEncoder,
    EncoderShape,
    EncoderStage,
    bev_encoder,
)
from torchsparse_lite.models.blocks import (
    BLOCKS,
    KERNELS,
    BottleneckBlock,
    DepthwiseBlock,
    Kernel,
    ResidualBlock,
)
from torchsparse_lite.models.minkunet import PRESETS, MinkUNet, Stage, UNetShape, minkunet
from torchsparse_lite.models.profile import LayerProfile, Profile, profile
from torchsparse_lite.models.pvcnn import PVCNN, PVCNNPlusPlus, pvcnn
from torchsparse_lite.models.pvcnn_shape import (
    PVCNN_PRESETS,
    Abstraction,
    Propagation,
    PVCNNPlusPlusShape,
    PVCNNShape,
    PVStage,
)
from torchsparse_lite.models.setting import Setting
from torchsparse_lite.models.spvcnn import SPVCNN, OnPoints, spvcnn

__all__ = [
    "BLOCKS",
    "ENCODERS",
    "KERNELS",
    "PRESETS",
    "PVCNN",
    "PVCNN_PRESETS",
    "SPVCNN",
    "Abstraction",
    "BEVEncoder",
    "BottleneckBlock",
    "DepthwiseBlock",
    "EncoderShape",
    "EncoderStage",
    "Kernel",
    "LayerProfile",
    "MinkUNet",
    "OnPoints",
    "PVCNNPlusPlus",
    "PVCNNPlusPlusShape",
    "PVCNNShape",
    "PVStage",
    "Profile",
    "Propagation",
    "ResidualBlock",
    "Setting",
    "Stage",
    "UNetShape",
    "bev_encoder",
    "minkunet",
    "profile",
    "pvcnn",
    "spvcnn",
]
