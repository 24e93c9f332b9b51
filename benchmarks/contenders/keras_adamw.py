"""Keras on the JAX backend, by the stateless call that its own trainer jits."""

from typing import Any

import jax
import keras

from benchmarks.contenders.contender import Program
from benchmarks.contenders.on_jax import contender
from benchmarks.reference import Conventions
from benchmarks.workloads import Config


def _program(config: Config, tree: Any) -> Program:
    optimizer = keras.optimizers.AdamW(
        config.learning_rate,
        weight_decay=config.weight_decay,
        beta_1=config.b1,
        beta_2=config.b2,
        epsilon=config.eps,
        amsgrad=config.amsgrad,
        global_clipnorm=config.clip_global_norm,
        use_ema=config.ema_decay is not None,
        ema_momentum=config.ema_decay or 0.0,
        gradient_accumulation_steps=config.accumulate_steps,
    )
    leaves, treedef = jax.tree.flatten(tree)
    optimizer.build([keras.Variable(_zeros(leaf)) for leaf in leaves])
    initial = [variable.value for variable in optimizer.variables]
    averages = [
        index
        for index, variable in enumerate(optimizer.variables)
        if variable.name.endswith("_average")
    ]

    def init(params: Any) -> Any:
        return jax.tree.leaves(params), initial

    def step(gradients: Any, carry: Any) -> Any:
        params, variables = carry
        gradients = jax.tree.leaves(gradients)
        return optimizer.stateless_apply(variables, gradients, params)

    def parameters(carry: Any) -> Any:
        return treedef.unflatten(carry[0])

    def average(carry: Any) -> Any:
        return treedef.unflatten([carry[1][index] for index in averages])

    return Program(step, init, parameters, average)


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.numpy.zeros(leaf.shape, leaf.dtype)


CONTENDER = contender(
    _program, Conventions(eps_hat=True, ema_starts_after_first_step=True)
)
