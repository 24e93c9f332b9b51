"""A short training in each of some libraries, as a function of the optimizer.

Each function takes `adamw`, the function `optax.adamw` or one with its signature, and
returns the numbers that the library's own loop has trained. The libraries are imported
in the functions, because not all of them are installed.
"""

import importlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

OPTIONS: dict[str, Any] = {"learning_rate": 1e-2, "weight_decay": 1e-2}
KEY = jax.random.key(0)
X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(-1, 1)
Y = X**3


def numpyro(adamw: Any) -> Any:
    """Stochastic variational inference."""
    library = importlib.import_module("numpyro")
    infer = importlib.import_module("numpyro.infer")
    guides = importlib.import_module("numpyro.infer.autoguide")
    normal = library.distributions.Normal

    def model(x, y):
        slope = library.sample("slope", normal(0.0, 1.0))
        with library.plate("data", len(x)):
            library.sample("y", normal(slope * x[:, 0], 0.5), obs=y[:, 0])

    guide = guides.AutoNormal(model)
    svi = infer.SVI(model, guide, adamw(**OPTIONS), infer.Trace_ELBO())
    return svi.run(jax.random.key(1), 30, X, Y, progress_bar=False).params


def flowjax(adamw: Any) -> Any:
    """Maximum likelihood of a distribution, with Equinox's trees."""
    distributions = importlib.import_module("flowjax.distributions")
    train = importlib.import_module("flowjax.train")
    start = distributions.Normal(jnp.zeros(2), jnp.ones(2))
    data = jax.random.normal(KEY, (60, 2)) * 2 + 1
    fitted, losses = train.fit_to_data(
        jax.random.key(1),
        start,
        data,
        optimizer=adamw(**OPTIONS),
        max_epochs=5,
        batch_size=20,
        show_progress=False,
    )
    return fitted.loc, fitted.scale, losses["train"]


def blackjax(adamw: Any) -> Any:
    """Mean-field variational inference."""
    library = importlib.import_module("blackjax")

    def density(x):
        return -jnp.sum((x - 1.0) ** 2)

    algorithm = library.meanfield_vi(density, adamw(**OPTIONS), 20)
    state = algorithm.init(jnp.zeros(3))
    step = jax.jit(algorithm.step)
    for key in jax.random.split(KEY, 20):
        state, _ = step(key, state)
    return state.mu, state.rho


def evosax(adamw: Any) -> Any:
    """An evolution strategy that steps with an optimizer."""
    algorithms = importlib.import_module("evosax.algorithms")
    strategy = algorithms.Open_ES(16, jnp.zeros(4), optimizer=adamw(**OPTIONS))
    params = strategy.default_params
    state = strategy.init(KEY, jnp.zeros(4), params)
    for key in jax.random.split(KEY, 10):
        asked, told = jax.random.split(key)
        population, state = strategy.ask(asked, state, params)
        fitness = jnp.sum((population - 1.0) ** 2, axis=1)
        state, _ = strategy.tell(told, population, fitness, state, params)
    return state.mean


def gpjax(adamw: Any) -> Any:
    """The hyperparameters of a Gaussian process."""
    library = importlib.import_module("gpjax")
    data = library.Dataset(X=jnp.asarray(X, float), y=jnp.asarray(Y, float))
    prior = library.gps.Prior(
        mean_function=library.mean_functions.Zero(), kernel=library.kernels.RBF()
    )
    posterior = prior * library.likelihoods.Gaussian()
    fitted, history = library.fit(
        model=posterior,
        objective=lambda p, d: -library.objectives.conjugate_mll(p, d),
        train_data=data,
        optim=adamw(**OPTIONS),
        num_iters=20,
        verbose=False,
        key=KEY,
    )
    kernel = fitted.prior.kernel
    return history, [jnp.asarray(x) for x in jax.tree.leaves(kernel)]


def penzai(adamw: Any) -> Any:
    """Its stateful trainer."""
    pz = importlib.import_module("penzai.pz")
    training = importlib.import_module("penzai.toolshed.basic_training")
    mlp = importlib.import_module("penzai.models.simple_mlp")
    model = mlp.MLP.from_config(name="mlp", init_base_rng=KEY, feature_sizes=[1, 8, 1])
    model = jax.tree.map(lambda x: x, model)

    def loss_fn(model, state, rng, x, y):
        named = pz.nx.wrap(x).tag("batch", "features")
        out = model(named).unwrap("batch", "features")
        return jnp.mean((out - y) ** 2), state, {}

    trainer = training.StatefulTrainer.build(
        root_rng=KEY, model=model, optimizer_def=adamw(**OPTIONS), loss_fn=loss_fn
    )
    for _ in range(10):
        trainer.step(x=jnp.asarray(X), y=jnp.asarray(Y))
    _, variables = pz.unbind_params(model)
    return {v.label: v.value.unwrap(*v.value.named_axes) for v in variables}


def haiku(adamw: Any) -> Any:
    """A transformed function in a loop by hand, as its examples have it."""
    hk = importlib.import_module("haiku")
    optax = importlib.import_module("optax")
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 1])(x)))
    params, tx = net.init(KEY, X), adamw(**OPTIONS)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean((net.apply(p, X) - Y) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
    return params


def sbx(adamw: Any) -> Any:
    """Proximal policy optimization, with an injected learning rate."""
    library = importlib.import_module("sbx")
    model = library.PPO(
        "MlpPolicy",
        "CartPole-v1",
        seed=0,
        n_steps=32,
        batch_size=32,
        n_epochs=2,
        learning_rate=OPTIONS["learning_rate"],
        policy_kwargs={
            "optimizer_class": adamw,
            "optimizer_kwargs": {"weight_decay": OPTIONS["weight_decay"]},
            "net_arch": [8],
        },
    )
    model.learn(64)
    return model.policy.actor_state.params, model.policy.vf_state.params


def tunix(adamw: Any) -> Any:
    """Its trainer for fine-tuning, with `nnx.Optimizer` and accumulation."""
    trainers = importlib.import_module("tunix.sft.peft_trainer")
    nnx = importlib.import_module("flax.nnx")
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    config = trainers.TrainingConfig(
        eval_every_n_steps=100, max_steps=4, gradient_accumulation_steps=2
    )
    trainer = trainers.PeftTrainer(model, adamw(**OPTIONS), config)
    trainer = trainer.with_loss_fn(lambda model, x, y: jnp.mean((model(x) - y) ** 2))
    batch = {"x": jnp.asarray(X), "y": jnp.asarray(Y)}
    trainer.train([batch] * 8)
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def netket(adamw: Any) -> Any:
    """Variational Monte Carlo of a chain of spins."""
    # It would switch on 64 bits for every other test.
    os.environ.setdefault("NETKET_ENABLE_X64", "0")
    nk = importlib.import_module("netket")
    chain = nk.graph.Chain(6)
    space = nk.hilbert.Spin(0.5, chain.n_nodes)
    energy = nk.operator.Ising(space, chain, h=1.0)
    state = nk.vqs.FullSumState(
        space, nk.models.RBM(alpha=1, param_dtype=jnp.float32), seed=0
    )
    driver = nk.driver.VMC(energy, adamw(**OPTIONS), variational_state=state)
    driver.run(10, show_progress=False)
    return state.parameters


LOOPS = {
    "numpyro": numpyro,
    "flowjax": flowjax,
    "blackjax": blackjax,
    "evosax": evosax,
    "gpjax": gpjax,
    "penzai": penzai,
    "haiku": haiku,
    "sbx": sbx,
    "tunix": tunix,
    "netket": netket,
}
"""By the name under which the library is imported."""
