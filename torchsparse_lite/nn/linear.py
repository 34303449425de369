# SPDX-License-Identifier: MIT
"""The same matrix for every row."""

from __future__ import annotations

from torch import nn

from torchsparse_lite import ops
from torchsparse_lite.features import Rows, check_rows
from torchsparse_lite.kernel_map import KernelMap
from torchsparse_lite.nn.functional import check_like_feats

__all__ = ["Linear"]


class Linear(nn.Linear):
    """``torch.nn.Linear`` on the features of every site or point; same arguments and state.

    It is a convolution with one tap, so that its results do not depend on the number of threads.
    """

    def forward(self, x: Rows) -> Rows:  # type: ignore[override]
        """Multiply every row of features by the transposed weight."""
        check_rows("Linear", x, self.in_features)
        check_like_feats("Linear: weight", self.weight, x)
        pairs = KernelMap.identity(len(x), x.device).pairs(with_backward=False)
        weight = self.weight.unsqueeze(0)
        feats = ops.sparse_conv(x.feats, weight, pairs, bias=self.bias, transposed=True)
        return x.replace_feats(feats)
