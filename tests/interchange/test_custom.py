"""Buffers of rules of one's own, which no other library has."""

import jax
import numpy as np
import pytest

import optadamw
from tests.interchange import cases
from tests.interchange.saving import each_peer, refused
from tests.support.lookahead import lookahead


def slow():
    return optadamw.chain(cases.adamw(), lookahead())


@each_peer
def test_to_a_peer(name):
    peer, params = cases.PEERS[name], cases.tree()
    params, state = cases.trained(slow(), params, 2)
    what = r"holds `slow`, a buffer of a rule of your own, .* drop=\('slow',\)"
    refused(ValueError, what, peer.to, state, params, tx=cases.adamw())
    lost = peer.to(state, params, tx=cases.adamw(), drop=("slow",))
    plain = state._replace(custom=None)
    kept = peer.to(plain, params, tx=cases.adamw())
    jax.tree.map(np.testing.assert_array_equal, lost, kept)


@each_peer
def test_from_a_peer(name):
    peer, params, tx = cases.PEERS[name], cases.tree(), cases.adamw()
    params, state = cases.trained(tx, params, 2)
    saved = peer.to(state, params, tx=tx)
    what = r"`tx` keeps `slow`, a buffer of a rule of your own, .* afresh=\('slow',\)"
    refused(ValueError, what, peer.back, saved, params, tx=slow())
    made = peer.back(saved, params, tx=slow(), afresh=("slow",))
    jax.tree.map(np.testing.assert_array_equal, made.custom["slow"], params)
    assert jax.tree.structure(made) == jax.tree.structure(slow().init(params))
    slow().update(cases.gradients(params, 3), made, params)


def test_a_name_that_is_no_buffer_is_still_refused():
    params, tx = cases.tree(), cases.adamw()
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"`drop` must be made of .*; got 'slow'"):
        cases.PEERS["torch"].to(state, params, tx=tx, drop=("slow",))
