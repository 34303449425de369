# SPDX-License-Identifier: MIT
"""Networks. Width and depth are data; see the presets."""

from torchsparse_lite.models.bev_encoder import (
    ENCODERS,
    BEVEncoder,
    EncoderShape,
    EncoderStage,
    bev_encoder,
)
from torchsparse_lite.models.blocks import ResidualBlock, conv_norm, conv_norm_relu
from torchsparse_lite.models.minkunet import PRESETS, MinkUNet, Stage, UNetShape, minkunet
from torchsparse_lite.models.profile import LayerProfile, Profile, profile
from torchsparse_lite.models.spvcnn import SPVCNN, OnPoints, spvcnn

__all__ = [
    "ENCODERS",
    "PRESETS",
    "SPVCNN",
    "BEVEncoder",
    "EncoderShape",
    "EncoderStage",
    "LayerProfile",
    "MinkUNet",
    "OnPoints",
    "Profile",
    "ResidualBlock",
    "Stage",
    "UNetShape",
    "bev_encoder",
    "conv_norm",
    "conv_norm_relu",
    "minkunet",
    "profile",
    "spvcnn",
]
