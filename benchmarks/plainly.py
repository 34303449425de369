# SPDX-License-Identifier: MIT
"""Convolutions by torch alone, in place of their kernels: what a kernel is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from torchsparse_lite.ops import plain_conv
from torchsparse_lite.ops.conv_call import ConvCall
from torchsparse_lite.ops.sparse_conv_sum import SumCall, one_by_one

__all__ = ["Plainly"]


class Plainly(TorchDispatchMode):
    """While it is entered, the registered operators run ``ops/plain_conv.py``, on any device.

    Autograd and autocast around them are the operators' own, in backward passes too.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the operator, or what stands for it."""
        operators = torch.ops.tsl
        if func is operators.sparse_conv_sum.default:
            with self:
                return one_by_one(SumCall(*args))
        plain: dict[object, Callable[..., Any]] = {
            operators.sparse_conv.default: lambda *args: plain_conv.sparse_conv(ConvCall(*args)),
            operators.sparse_conv_weight_grad.default: plain_conv.sparse_conv_weight_grad,
        }
        return plain.get(func, func)(*args, **(kwargs or {}))
