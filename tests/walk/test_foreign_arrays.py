"""Arrays of other libraries in the place of parameters, gradients and numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

import optadamw

TX = optadamw.adamw(0.1, clip_global_norm=1.0)
PARAMS = {"b": jnp.full(3, 2.0), "w": jnp.full((2, 3), 2.0)}
GRADS = {"b": jnp.full(3, 0.5), "w": jnp.full((2, 3), 0.5)}
STATE = TX.init(PARAMS)


class Tensor:
    """A tensor has a dtype that NumPy does not know, as those of PyTorch have."""

    shape = (3,)
    dtype = type("float32", (), {})()
    requires_grad = False

    def numpy(self, force=False):
        return np.full(3, 0.5, np.float32)

    def __array__(self, *args, **kwargs):
        return self.numpy()


def test_tensors_of_another_library_are_refused_with_the_remedy():
    tensor, remedy = Tensor(), r"Pass tensor\.numpy\(force=True\) for each tensor"
    for call in (TX.step, TX.update):
        with pytest.raises(TypeError, match=rf"Leaf 'b': its gra.*{remedy}"):
            call(GRADS | {"b": tensor}, STATE, PARAMS)
        with pytest.raises(TypeError, match=rf"Leaf 'b': a para.*{remedy}"):
            call(GRADS, STATE, PARAMS | {"b": tensor})
    with pytest.raises(TypeError, match=rf"Leaf 'b'.*{remedy}"):
        TX.init(PARAMS | {"b": tensor})
    with pytest.raises(TypeError, match="`grad_norm` must be a real scalar; got"):
        TX.step(GRADS, STATE, PARAMS, grad_norm=tensor)


def test_arrays_in_the_other_order_of_bytes_are_refused_with_the_remedy():
    swapped = np.dtype(np.float32).newbyteorder("S")
    array = np.full(3, 0.5, swapped)
    text = rf"Leaf 'b': JAX takes no array .*; its dtype is {swapped.str}\. Pass x\.ast"
    for call in (TX.step, TX.update):
        with pytest.raises(TypeError, match=text):
            call(GRADS | {"b": array}, STATE, PARAMS)
        with pytest.raises(TypeError, match=text):
            call(GRADS, STATE, PARAMS | {"b": array})
    with pytest.raises(TypeError, match=text):
        TX.init(PARAMS | {"b": array})
    mended = array.astype(array.dtype.newbyteorder("="))
    TX.step(GRADS | {"b": mended}, TX.init(PARAMS | {"b": mended}), PARAMS)
