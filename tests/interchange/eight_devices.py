"""A state that came from elsewhere lies where its parameters lie, on eight devices.

Run by `test_there_and_back.py` under
`XLA_FLAGS=--xla_force_host_platform_device_count=8`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from optadamw import interchange
from tests.interchange import cases

SPECS = {"kernel": P("data", "model"), "bias": P(("data", "model")), "scale": P()}
SHAPES = {"kernel": (8, 6), "bias": (16,), "scale": ()}


@pytest.mark.parametrize("abstract", [False, True], ids=["arrays", "shapes"])
@pytest.mark.parametrize("accumulates", [False, True])
def test_shardings_are_those_of_init(abstract, accumulates):
    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    plain = cases.normal(SHAPES, jnp.float32, 0)
    params = {
        name: jax.device_put(x, NamedSharding(mesh, SPECS[name]))
        for name, x in plain.items()
    }
    tx = cases.adamw(accumulate_steps=2) if accumulates else cases.adamw()
    saved = interchange.to_torch(
        cases.trained(cases.adamw(), plain, 2)[1], plain, tx=tx
    )
    wanted = tx.init(params)
    given = params
    if abstract:
        given = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for name, x in params.items()
        }
    for chosen in (tx, None):
        state = interchange.from_torch(saved, given, tx=chosen)
        for name in ("mu", "nu", "accumulator") if chosen else ("mu", "nu"):
            found, like = getattr(state, name), getattr(wanted, name)
            if like is not None:
                for key in SHAPES:
                    assert found[key].sharding.is_equivalent_to(
                        like[key].sharding, like[key].ndim
                    )
        assert state.step.sharding.is_equivalent_to(wanted.step.sharding, 0)
        np.testing.assert_array_equal(state.mu["kernel"], saved["state"][1]["exp_avg"])
    stepped = jax.jit(tx.step)(
        cases.gradients(params, 0), interchange.from_torch(saved, given, tx=tx), params
    )[1]
    assert jax.tree.structure(stepped) == jax.tree.structure(wanted)


def test_other_names_for_optax_keep_the_shardings():
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    params = {
        name: jax.device_put(x, NamedSharding(mesh, SPECS[name]))
        for name, x in cases.normal(SHAPES, jnp.float32, 0).items()
    }
    tx = cases.adamw()
    names = {name: f"layer/{name}" for name in SHAPES}
    saved = interchange.to_optax(tx.init(params), params, tx=tx, names=names)
    for name, x in params.items():
        found = saved[0].mu["layer"][name].sharding
        assert found.is_equivalent_to(x.sharding, x.ndim)
