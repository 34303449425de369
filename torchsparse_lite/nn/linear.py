# SPDX-License-Identifier: MIT
"""The same matrix for every site."""

from __future__ import annotations

from torch import nn

from torchsparse_lite import ops
from torchsparse_lite.kernel_map import ConvGeometry
from torchsparse_lite.nn.functional import check_like_feats
from torchsparse_lite.tensor import SparseTensor, check_sparse

__all__ = ["Linear"]

_POINTWISE = ConvGeometry.same(1)


class Linear(nn.Linear):
    """``torch.nn.Linear`` on the features of every site; same arguments and state.

    It is a convolution with one tap, so that its results do not depend on the number of threads.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Multiply every row of features by the transposed weight."""
        check_sparse("Linear", x, self.in_features)
        check_like_feats("Linear: weight", self.weight, x)
        pairs = x.manager.submanifold(x.level, _POINTWISE).pairs(with_backward=False)
        weight = self.weight.unsqueeze(0)
        feats = ops.sparse_conv(x.feats, weight, pairs, bias=self.bias, transposed=True)
        return x.replace_feats(feats)
