"""A recorded row of a peer, taken by our call of the same name.

`OPENED[peer](row)` is the transformation; `run` feeds it what the peer was fed. What a
row does outside the peer's optimizer (a clip, a scheduler, an accumulation) is done
here as a user of that peer would do it with this library.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

import optadamw
from optadamw.dialects import flux, keras, mlx, optimi, paper, tensorflow, timm, torch
from optadamw.dialects import optax as optax_peer
from optadamw.dialects import tensorflow_addons as tfa
from tests.peers import values
from tests.peers.feed import feed, matches
from tests.peers.rows import ROWS, Row
from tests.peers.streams import flatten


def _value(value: Any) -> Any:
    """A value of a row in the form that a user of JAX has it in."""
    match value:
        case values.Exponential(initial, steps, rate):
            return optax.exponential_decay(initial, steps, rate)
        case values.Cosine(initial, steps, alpha):
            return optax.cosine_decay_schedule(initial, steps, alpha)
        case values.PiecewiseTable(boundaries, levels):
            edges, table = jnp.array(boundaries), jnp.array(levels, jnp.float32)
            return lambda step: table[jnp.sum(step >= edges)]
        case values.Tensor(number, shape):
            return jnp.full(shape, number, jnp.float32)
        case values.Decayed(patterns):
            return optadamw.exclude(*patterns)
        case values.ZeroArgument(number):
            return lambda: number
        case tuple():
            return tuple(_value(item) for item in value)
    return value


def _kwargs(row: Row) -> dict[str, Any]:
    return {name: _value(value) for name, value in row.kwargs.items()}


def _scheduled(kwargs: dict[str, Any], outside: Mapping[str, Any]) -> dict[str, Any]:
    """PyTorch's LambdaLR multiplies all groups' rates; here each is a schedule."""
    if "lambda_lr" not in outside:
        return kwargs
    factor = _value(outside["lambda_lr"])
    lr = kwargs.get("lr", 1e-3)
    return kwargs | {"lr": lambda step: lr * factor(step)}


def _torch_like(call: Callable[..., Any], row: Row, **more: Any) -> Any:
    outside, own = row.outside, _kwargs(row)
    kwargs = _scheduled(own, outside) | more
    groups = [
        {"params": pattern, **_scheduled(own | overrides, outside)}
        if "lr" in overrides
        else {"params": pattern, **overrides}
        for pattern, overrides in outside.get("groups", {}).items()
    ]
    legal = ("params", "lr", "betas", "eps", "weight_decay", "beta1", "beta2")
    legal += ("clipping_threshold",)
    groups = [{k: v for k, v in group.items() if k in legal} for group in groups]
    for group, overrides in zip(
        groups, outside.get("groups", {}).values(), strict=True
    ):
        for name in [n for n in group if n != "params" and n not in overrides]:
            del group[name]
    if groups:
        kwargs["params"] = groups
    return call(**kwargs)


def _torch(row: Row) -> Any:
    more = {
        name: row.outside[name]
        for name in ("clip_grad_norm", "clip_grad_value")
        if name in row.outside
    }
    if "grad_scaler" in row.outside:
        more["grad_scaler"] = torch.GradScaler(**row.outside["grad_scaler"])
    tx = _torch_like(torch.AdamW, row, **more)
    if "accumulation" in row.outside:
        return optadamw.multi_steps(tx, row.outside["accumulation"])
    return tx


def _clipped(call: Callable[..., Any], row: Row) -> Any:
    """Of those whose users clip with PyTorch's function."""
    tx = _torch_like(call, row)
    if "clip_grad_norm" not in row.outside:
        return tx
    clip = optadamw.clip_by_global_norm(row.outside["clip_grad_norm"], eps=1e-6)
    return optadamw.chain(clip, tx)


def _timm(row: Row) -> Any:
    call = getattr(timm, row.function)
    if "lambda_lr" in row.outside and row.kwargs.get("corrected_weight_decay"):
        call = functools.partial(call, max_lr=row.kwargs["lr"])
    return _clipped(call, row)


def _optimi(row: Row) -> Any:
    call = optimi.AdamW
    if "lambda_lr" in row.outside and row.kwargs.get("decouple_lr"):
        call = functools.partial(
            call, max_lr=row.kwargs.get("max_lr", row.kwargs["lr"])
        )
        row = Row(
            row.function,
            {name: value for name, value in row.kwargs.items() if name != "max_lr"},
            row.dtype,
            row.calls,
            row.outside,
        )
    return _clipped(call, row)


def _in_float32(row: Row) -> Any:
    """torchao and bitsandbytes in 32 bits: PyTorch's numbers."""
    kwargs = {name: value for name, value in row.kwargs.items() if name != "amsgrad"}
    if "ignored" not in row.outside and row.function not in ("AdamW32bit", "Adam"):
        kwargs = dict(row.kwargs)
    if isinstance(kwargs.get("betas"), str):
        kwargs["betas"] = (0.8, 0.95)
    return _clipped(
        torch.AdamW, Row(row.function, kwargs, row.dtype, row.calls, row.outside)
    )


def _bitsandbytes(row: Row) -> Any:
    kwargs = {name: value for name, value in row.kwargs.items() if name != "amsgrad"}
    return _in_float32(Row("AdamW32bit", kwargs, row.dtype, row.calls, row.outside))


def _keras_like(module: Any, row: Row, **more: Any) -> Any:
    tx = module.AdamW(**_kwargs(row), **more)
    if "exclude" in row.outside:
        tx = module.exclude_from_weight_decay(
            tx, var_names=list(row.outside["exclude"]), **more
        )
    if "loss_scale" in row.outside:
        return keras.LossScaleOptimizer(tx, **row.outside["loss_scale"])
    return tx


def _keras(row: Row) -> Any:
    return _keras_like(keras, row, bug_compatible=True)


def _tf_keras(row: Row) -> Any:
    return _keras_like(tensorflow, row)


def _tfa(row: Row) -> Any:
    kwargs = _kwargs(row)
    if "decay_var_list" in row.outside:
        names = feed(row).params
        chosen = [n for n in names if matches(n, row.outside["decay_var_list"])]
        kwargs["decay_var_list"] = chosen
    return tfa.AdamW(**kwargs, bug_compatible=True)


def _mlx(row: Row) -> Any:
    kwargs = _kwargs(row)
    if "clip_grad_norm" in row.outside:
        kwargs["clip_grad_norm"] = row.outside["clip_grad_norm"]
    tx = mlx.AdamW(**kwargs)
    groups = row.outside.get("groups", {})
    if not groups:
        return tx
    return optadamw.param_groups(
        tx, {pattern: mlx.AdamW(**kwargs | own) for pattern, own in groups.items()}
    )


def _optax(row: Row) -> Any:
    kwargs, outside = _kwargs(row), row.outside
    if row.function == "scale_by_amsgrad":
        tx = optadamw.adamw(**kwargs, **outside["decay"], amsgrad="corrected")
    else:
        call = getattr(optax_peer, row.function)
        if "inject_hyperparams" in outside:
            call = optax.inject_hyperparams(call)
        tx = call(**kwargs)
    if "chain" in outside:
        clips = [getattr(optax, name)(*args) for name, *args in outside["chain"]]
        tx = optax.chain(*clips, tx)
    if "apply_if_finite" in outside:
        tx = optax.apply_if_finite(tx, outside["apply_if_finite"])
    if "multi_steps" in outside:
        tx = optax.MultiSteps(tx, **outside["multi_steps"]).gradient_transformation()
    return tx


def _flux(row: Row) -> Any:
    kwargs = _kwargs(row)
    if "lambda" in kwargs:
        kwargs["lambda_"] = kwargs.pop("lambda")
    if "adjust" in row.outside:
        kwargs["eta"] = _value(row.outside["adjust"])
    tx, every = flux.AdamW(**kwargs), 1
    for name, number in reversed(row.outside.get("chain", ())):
        if name == "ClipGrad":
            tx = optadamw.chain(optadamw.clip_by_value(number), tx)
        elif name == "ClipNorm":
            tx = optadamw.chain(optadamw.clip_by_norm(number), tx)
        else:
            every = number
    return optadamw.multi_steps(tx, every)


def _paper(row: Row) -> Any:
    kwargs = _kwargs(row)
    named = {"beta1": "beta_1", "beta2": "beta_2", "weight_decay": "lambda_"}
    kwargs = {named.get(name, name): value for name, value in kwargs.items()}
    if "weight_decay_norm" in kwargs:
        batches = kwargs.pop("points") / kwargs.pop("batch_size") * kwargs.pop("epochs")
        norm = kwargs.pop("weight_decay_norm")
        kwargs["lambda_"] = norm / batches**0.5
    if "restarts" in kwargs:
        restarts = kwargs.pop("restarts")
        kwargs["eta"] = paper.cosine_warm_restarts(
            restarts["first"],
            factor=restarts["mult"],
            low=restarts["eta_min"],
            high=restarts["eta_max"],
        )
    call = paper.adamw if row.function == "algorithm_2" else paper.authors_adamw
    return call(**kwargs)


OPENED: dict[str, Callable[[Row], Any]] = {
    "torch": _torch,
    "keras_jax": _keras,
    "keras_torch": _keras,
    "tf_keras": _tf_keras,
    "tfa": _tfa,
    "mlx": _mlx,
    "optax": _optax,
    "timm": _timm,
    "optimi": _optimi,
    "flux": _flux,
    "paper": _paper,
    "torchao": _in_float32,
    "bitsandbytes": _bitsandbytes,
}


def run(tx: Any, row: Row) -> tuple[np.ndarray, Any]:
    """Parameters after every call, leaves one after the other; and the last state."""
    start, grads = feed(row)
    params = {name: _array(leaf, row.dtype) for name, leaf in start.items()}
    state, after = tx.init(params), []
    step = jax.jit(functools.partial(optadamw.step, tx))
    scaled = "grad_scaler" in row.outside or "loss_scale" in row.outside
    dtype = row.outside.get("gradients", row.dtype)
    for tree in grads:
        scale = float(state.loss_scale) if scaled else 1.0
        given = {
            name: _array(tree[name] * np.float32(scale), dtype)
            if name in tree
            else None
            for name in start
        }
        params, state = step(given, state, params)
        # In the order of the recording: JAX sorts the keys of a dict.
        after.append(flatten({name: _wide(params[name]) for name in start}))
    return np.stack(after), state


def row_of(peer: str, name: str) -> Row:
    return ROWS[peer][name]


def _array(leaf: Any, dtype: str) -> jax.Array:
    named = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return jnp.asarray(np.asarray(leaf).astype(named))


def _wide(leaf: jax.Array) -> np.ndarray:
    host = np.asarray(leaf)
    return host.astype(np.float32) if host.dtype == ml_dtypes.bfloat16 else host
