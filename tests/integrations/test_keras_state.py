"""The State of an optimizer in `fit` is set from that of Keras's own AdamW."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
import pytest

from optadamw import adamw, interchange
from optadamw.dialects import keras as dialect

keras = pytest.importorskip("keras", reason="Keras is not installed")
from optadamw.integrations.keras import Optimizer  # noqa: E402

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = np.tanh(X[:, :2])
OPTIONS = {"learning_rate": 0.01, "weight_decay": 0.1, "amsgrad": True}


def compiled(optimizer):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(optimizer=optimizer, loss="mse")
    return model


def fit(model, epochs):
    model.fit(X, Y, epochs=epochs, batch_size=8, shuffle=False, verbose=0)


def test_an_old_file_of_keras_goes_on_in_fit(tmp_path):
    whole = compiled(keras.optimizers.AdamW(**OPTIONS))
    fit(whole, 4)
    model = compiled(keras.optimizers.AdamW(**OPTIONS))
    fit(model, 2)
    model.save(tmp_path / "old.keras")

    model = keras.models.load_model(tmp_path / "old.keras")
    tx = dialect.AdamW(**OPTIONS)
    params = {v.path: v.value for v in model.trainable_variables}
    state = interchange.from_keras(model.optimizer.variables, params, tx=tx)
    model.compile(optimizer=Optimizer(tx), loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.set_state(state)
    assert int(model.optimizer.iterations) == 6
    fit(model, 2)
    assert int(model.optimizer.iterations) == 12
    # Keras forms 1 - 0.999^t in float32, where 0.999 is wrong by 1.3e-8: half of that
    # relative error of 1.3e-5, in six steps of at most the rate; and 3 ulp of the leaf.
    rounding = 6 * OPTIONS["learning_rate"] * 1.3e-5 / 2
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        ulp = np.spacing(np.abs(theirs).max())
        assert np.abs(ours - theirs).max() <= rounding + 3 * ulp


def test_a_state_that_does_not_fit_is_refused():
    tx = adamw(0.01)
    model = compiled(Optimizer(tx))
    params = {v.path: v.value for v in model.trainable_variables}
    with pytest.raises(ValueError, match="has no state yet"):
        model.optimizer.set_state(tx.init(params))
    model.optimizer.build(model.trainable_variables)
    first = model.optimizer.state
    model.optimizer.set_state(tx.init(params))
    other = adamw(0.01, amsgrad=True).init(params)
    with pytest.raises(ValueError, match=r"a State of `tx` with nothing at 'nu_max/"):
        model.optimizer.set_state(other)
    with pytest.raises(ValueError, match=r"with float32\[3, 3\] at 'mu/.*float32\[2\]"):
        model.optimizer.set_state(
            tx.init(dict.fromkeys(params, np.zeros(2, np.float32)))
        )
    with pytest.raises(ValueError, match="Make it with `tx` and"):
        model.optimizer.set_state(tx.init({"other": np.zeros(2, np.float32)}))
    assert model.optimizer.state.mu.keys() == first.mu.keys()


def test_a_file_of_weights_of_another_transformation_is_refused(tmp_path):
    """Keras numbers variables, so a maximum would become an average in silence."""
    path = tmp_path / "model.weights.h5"
    model = compiled(Optimizer(adamw(0.01, amsgrad=True)))
    model.optimizer.build(model.trainable_variables)
    model.save_weights(path)
    other = compiled(Optimizer(adamw(0.01, ema_decay=0.9)))
    other.load_weights(path)  # the weights alone: the optimizer is not built
    other.optimizer.build(other.trainable_variables)
    with pytest.raises(ValueError, match=r"mu, nu, nu_max; `tx` keeps .*mu, nu, ema"):
        other.load_weights(path)
    store = {}
    model.optimizer.save_own_variables(store)
    del store["fields"]  # a file of an earlier version
    other.optimizer.load_own_variables(store)


def towers(name):
    """Two Sequentials whose layers have equal names."""
    inputs = keras.Input((6,))
    found = inputs
    for part in ("encoder", "decoder"):
        layers = [keras.layers.Dense(6, name=layer) for layer in ("hidden", "out")]
        found = keras.Sequential([keras.Input((6,)), *layers], name=part)(found)
    return keras.Model(inputs, found, name=name)


GROUPS = {
    "pattern": {"*/out/*": {"learning_rate": 1e-4}},
    "path": {"decoder/out/kernel": {"learning_rate": 1e-4}},
    "frozen": {"*/hidden/*": {"freeze": True}},
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_a_loaded_model_has_the_groups_of_the_one_that_was_saved(groups, tmp_path):
    """Keras loads 'decoder/out/kernel' as 'out/kernel', which '*/out/*' misses."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    model = towers("both")
    model.compile(optimizer=Optimizer(adamw(1e-2, groups=groups)), loss="mse")
    model.fit(x, x, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(x, x, epochs=2, verbose=0, shuffle=False)
    pairs = zip(model.get_weights(), loaded.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert list(loaded.optimizer.state.mu) == list(model.optimizer.state.mu)
    loaded.optimizer.set_state(model.optimizer.state)


def blocks():
    inputs = keras.Input((4,))
    found = inputs
    for name in ("low", "mid", "top"):
        layer = keras.layers.Dense(4, name="out")
        found = keras.Sequential([layer], name=name)(found)
    return keras.Model(inputs, found)


def choose(model, names):
    for name in ("low", "mid", "top"):
        model.get_layer(name).trainable = name in names


@pytest.mark.parametrize("later", ["low mid", "low", "mid", "low mid top"])
def test_other_blocks_are_trained_after_loading(later, tmp_path):
    """A variable keeps its path in the file, and none gets that of another."""
    x = np.ones((8, 4), "float32")
    tx = adamw(1e-2, weight_decay=0.0, groups={"top/*": {"learning_rate": 1e-5}})
    if "top" not in later:  # where a pattern without a parameter is refused
        tx = adamw(1e-2, weight_decay=0.0)
    model = blocks()
    choose(model, "mid top")
    model.compile(optimizer=Optimizer(tx), loss="mse")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    choose(loaded, later)
    config = loaded.optimizer.get_config()
    loaded.compile(optimizer=Optimizer.from_config(config), loss="mse")
    loaded.fit(x, x, verbose=0)
    wanted = {"low": "out", "mid": "mid/out", "top": "top/out"}
    ends = [f"{wanted[n]}/{w}" for n in later.split() for w in ("kernel", "bias")]
    assert list(loaded.optimizer.state.mu) == ends


def test_paths_are_kept_over_two_files(tmp_path):
    """A number that the first file lacked is in the second: 'out_2/kernel'."""
    x = np.ones((8, 4), "float32")
    model = blocks()
    for names, groups in (("top", None), ("low mid top", {"top/*": {"freeze": True}})):
        choose(model, names)
        tx = adamw(1e-2, groups=groups)
        model.compile(optimizer=Optimizer(tx), loss="mse")
        model.fit(x, x, verbose=0)
        paths = list(model.optimizer.state.mu)
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    model.fit(x, x, verbose=0)
    assert list(model.optimizer.state.mu) == paths
    assert paths[::2] == ["out/kernel", "out_2/kernel", "top/out/kernel"]


def test_an_optimizer_that_was_copied_has_the_paths_of_its_model(tmp_path):
    x = np.ones((8, 4), "float32")
    model = blocks()
    tx = adamw(1e-2, groups={"top/*": {"learning_rate": 1e-5}})
    model.compile(optimizer=Optimizer(tx), loss="mse")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "model.keras")
    copied = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    loaded.compile(optimizer=copied, loss="mse")
    loaded.fit(x, x, verbose=0)
    assert list(loaded.optimizer.state.mu) == list(model.optimizer.state.mu)


def test_two_models_of_one_file_are_trained_together(tmp_path):
    x = np.ones((8, 4), "float32")
    model = blocks()
    model.compile(optimizer=Optimizer(adamw(1e-2)), loss="mse")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "model.keras")
    inputs, ends = keras.Input((4,)), []
    for name in ("one", "other"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
        loaded.name = name
        ends.append(loaded(inputs))
    both = keras.Model(inputs, keras.layers.Average()(ends))
    both.compile(optimizer=Optimizer(adamw(1e-2)), loss="mse")
    before = [np.array(v.value) for v in both.trainable_variables]
    both.fit(x, x, verbose=0)
    assert len(both.optimizer.state.mu) == len(before) == 12
    for old, variable in zip(before, both.trainable_variables, strict=True):
        assert np.any(np.array(variable.value) != old)


def test_the_paths_of_a_config_are_not_those_of_another_model():
    made = Optimizer(adamw(0.1))
    made.build([keras.Variable(np.ones(2), name=name) for name in ("a", "b")])
    other = Optimizer.from_config(made.get_config())
    other.build([keras.Variable(np.ones(2), name=name) for name in ("b", "c")])
    assert list(other.state.mu) == ["b", "c"]
