# SPDX-License-Identifier: MIT
"""The only caller of ``torch.library``: schema, kernels, fake, autograd, autocast of an operator.

``Library.define`` and ``impl`` keep the eager path thin: a call costs a few microseconds, a tenth
of what the ``custom_op`` decorator takes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from torchsparse_lite.errors import refuse_cuda

__all__ = ["Autograd", "computed_dtype", "data_dependent_size", "define_op", "gradients", "opaque"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_NAMESPACE = "tsl"
_library = torch.library.Library(_NAMESPACE, "DEF")


@dataclass(frozen=True)
class Autograd:
    """How to differentiate an operator.

    Attributes:
        setup_context: ``(ctx, inputs, output)``, stores what ``backward`` needs.
        backward: ``(ctx, *grad_outputs)``, one gradient (or None) per input.
    """

    setup_context: Callable[..., None]
    backward: Callable[..., Any]


def define_op(
    schema: str,
    *,
    cpu: Callable[..., Any],
    fake: Callable[..., Any],
    cuda: Callable[..., Any] | None = None,
    autograd: Autograd | None = None,
    autocast: bool = False,
    record: Callable[[tuple[Any, ...]], Any] | None = None,
) -> Callable[..., Any]:
    """Declare ``torch.ops.tsl.<name>``.

    Args:
        schema: ``"name(Tensor x, ...) -> Tensor"``.
        cpu: computes it for CPU tensors.
        fake: shapes and dtypes of the result, for torch.compile.
        cuda: computes it for CUDA tensors; without one, a CUDA tensor gets an error with a remedy.
        autograd: None for integer results.
        autocast: compute in autocast's dtype, as torch's own convolutions do.
        record: makes of all arguments the one that ``cpu``, ``cuda`` and ``fake`` take: ``_make``
            of a named tuple in the order of the schema.

    Returns:
        The operator, ready to be called.
    """
    name = schema.partition("(")[0]
    if record is not None:
        cpu, fake = _taking(record, cpu), _taking(record, fake)
        cuda = cuda and _taking(record, cuda)
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, opaque(cpu), "CPU")
    _library.impl(name, opaque(cuda or _refuse_cuda(name)), "CUDA")
    operator: Callable[..., Any] = getattr(getattr(torch.ops, _NAMESPACE), name).default
    qualified = f"{_NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake, lib=_library)
    if autograd is not None:
        torch.library.register_autograd(
            qualified, autograd.backward, setup_context=autograd.setup_context, lib=_library
        )
    if autocast:
        for device_type in ("cpu", "cuda"):
            key = f"Autocast{device_type.upper()}"
            _library.impl(name, _autocast(operator, device_type, key), key)
    return operator


def gradients(arguments: Iterable[str], **known: Any) -> tuple[Any, ...]:
    """What ``backward`` of an operator with these arguments returns: None where nothing is said."""
    return tuple(known.get(name) for name in arguments)


def _taking(
    record: Callable[[tuple[Any, ...]], Any], function: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(record(args))

    return call


def opaque(function: _Function) -> _Function:
    """The function, hidden from Dynamo, which cannot look into the compiled module.

    ``torch.compiler.disable`` alone would import all of Dynamo with this package; here that waits
    until somebody compiles.
    """
    hidden: Callable[..., Any] | None = None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal hidden
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        hidden = hidden or torch.compiler.disable(function)
        return hidden(*args, **kwargs)

    # Dynamo counts the versions of a code object, and gives up on one that has too many.
    call.__code__ = call.__code__.replace(co_name=function.__name__)
    return cast("_Function", functools.update_wrapper(call, function))


def data_dependent_size() -> Any:
    """Size of a result that only the data tell, inside a fake kernel."""
    return torch.library.get_ctx().new_dynamic_size()


def _refuse_cuda(name: str) -> Callable[..., Any]:
    def kernel(*_: object, **__: object) -> Any:
        refuse_cuda(name)

    return kernel


def computed_dtype(operand: Tensor) -> torch.dtype:
    """The dtype to which autocast, if enabled, brings an operand of an operator that knows it."""
    device_type = operand.device.type
    if operand.dtype == torch.float64 or not torch.is_autocast_enabled(device_type):
        return operand.dtype
    return torch.get_autocast_dtype(device_type)


def _autocast(operator: Callable[..., Any], device_type: str, key: str) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(value: Any) -> Any:
        if isinstance(value, list):
            return [cast(item) for item in value]
        is_eligible = (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.dtype != torch.float64
            and value.device.type == device_type
        )
        return value.to(torch.get_autocast_dtype(device_type)) if is_eligible else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operator(
                *(cast(arg) for arg in args), **{name: cast(arg) for name, arg in kwargs.items()}
            )

    return kernel
