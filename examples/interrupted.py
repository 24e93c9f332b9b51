"""Kill a training again and again, with bad gradients in it, and lose nothing.

    python examples/interrupted.py                     2,000 steps, 10 kills, 5 % faults
    python examples/interrupted.py --kills 100         more of it

The demo's network is trained on handwritten digits with accumulation over three
weighted micro-batches, a dynamic loss scale, the guard, a clip and an average of the
parameters. Into 5 % of the micro-batches a fault is put: NaN, infinity, 1e20 or 1e38 in
one element of a gradient. The same training is then run in a process that is killed
with SIGKILL at random moments, also within a window and while it saves, and taken up
again from its last checkpoint by a new process. Both must end in the same bits, and no
further from trainings without faults than those are from each other.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

ACCUMULATE = 3
BATCH = 32
REPORT_EVERY = 10
SAVE_EVERY = 7  # no multiple of the window: most checkpoints are within one


def main(arguments=None):
    """Run the trainings, print what happened, and return 0 if all is as promised."""
    options = _options(arguments)
    if options.worker:
        return _work(options)
    with tempfile.TemporaryDirectory() as folder:
        return _compare(options, Path(folder))


def _compare(options, folder):
    chance = random.Random(options.seed)
    print(f"{options.steps} steps of {ACCUMULATE} micro-batches each")
    whole = _run(options, folder / "whole", faults=options.faults)
    print(f"without interruption: {_told(whole)}", flush=True)

    total = options.steps * ACCUMULATE // REPORT_EVERY
    moments = sorted(chance.randrange(1, total) for _ in range(options.kills))
    resumed, kills = None, 0
    for moment in [*moments, None]:
        resumed = _run(
            options, folder / "killed", faults=options.faults, kill_at=moment
        )
        if resumed is None:
            kills += 1
    print(f"killed {kills} times:      {_told(resumed)}", flush=True)
    same = resumed["digest"] == whole["digest"]
    print(f"the same bits:        {'yes' if same else 'NO'}")

    clean = [
        _run(options, folder / f"clean{seed}", faults=0.0, seed=options.seed + seed)
        for seed in range(options.clean)
    ]
    losses = [run["loss"] for run in clean]
    middle, spread = statistics.mean(losses), statistics.stdev(losses)
    apart = abs(whole["loss"] - middle)
    close = apart <= 4 * spread
    print(
        f"without faults:       loss {middle:.4f} +- {spread:.4f} over {len(losses)} "
        f"seeds; with faults {apart / spread:.1f} of these deviations away"
    )
    return 0 if same and close and whole["nonfinite"] > 0 else 1


def _told(run):
    return (
        f"step {run['step']}, loss {run['loss']:.4f}, accuracy {run['accuracy']:.2%}, "
        f"{run['nonfinite']} bad gradients, {run['dropped']} micro-batches left out, "
        f"{run['skipped']} steps skipped, bits {run['digest'][:12]}"
    )


def _run(options, folder, *, faults, seed=None, kill_at=None):
    """Run one process, perhaps to be killed after so many reports; None if it was."""
    folder.mkdir(exist_ok=True)
    seed = options.seed if seed is None else seed
    command = [sys.executable, __file__, "--worker", str(folder), "--seed", str(seed)]
    command += ["--steps", str(options.steps), "--faults", str(faults)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("{"):
                return json.loads(line)
            if kill_at is not None and int(line) >= kill_at:
                # Not at a report but some moment after it.
                try:
                    process.wait(random.uniform(0, 0.05))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    return None
    raise RuntimeError(f"the training in {folder} ended without a result")


def _work(options):
    """Train in this process, from the checkpoint in the folder if there is one."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import optadamw
    from optadamw import checkpoint
    from optadamw.cli.demo import data
    from optadamw.cli.demo.evaluation import evaluate, loss_and_right
    from optadamw.cli.demo.model import initial_network

    splits = data.load()
    graph, params = initial_network(options.seed)
    tx = optadamw.adamw(
        2e-3,
        weight_decay=1e-2,
        mask="*/kernel",
        clip_global_norm=1.0,
        ema_decay=0.99,
        accumulate_steps=ACCUMULATE,
        skip_nonfinite=True,
        loss_scale=optadamw.DynamicLossScale(initial=2.0**12, growth_interval=50),
        stats=True,
    )

    @partial(jax.jit, donate_argnums=(0, 1))
    def micro_step(params, state, rows, weight, fault, place):
        batch = jax.tree.map(lambda part: part[rows], splits.training)

        def scaled(params):
            return optadamw.scale_loss(state, loss_and_right(params, graph, batch)[0])

        grads = jax.grad(scaled)(params)
        flat, treedef = jax.tree.flatten(grads)
        hit = flat[0].reshape(-1)
        hit = hit.at[place % hit.size].set(jnp.where(fault == 0, hit[0], fault))
        flat[0] = jnp.where(fault == 0, flat[0], hit.reshape(flat[0].shape))
        return tx.step(treedef.unflatten(flat), state, params, weight=weight)

    state = tx.init(params)
    path = Path(options.worker, "checkpoint.npz")
    if path.exists():
        saved = checkpoint.load(path)
        params = checkpoint.params_of(saved, params)
        state, _ = checkpoint.restore(tx, params, saved)
    stats = optadamw.stats_of(state)
    done = int((stats.step + stats.skipped) * ACCUMULATE + stats.fill)

    for index in range(done, options.steps * ACCUMULATE):
        # A function of the index alone, so that a new process sees the same data.
        chance = np.random.default_rng([options.seed, index])
        rows = chance.integers(0, len(splits.training.labels), BATCH)
        weight = np.float32(chance.integers(1, 5))
        fault = chance.choice([np.nan, np.inf, 1e20, 1e38])
        fault = np.float32(fault if chance.random() < options.faults else 0.0)
        place = np.int32(chance.integers(0, 2**31 - 1))
        params, state = micro_step(params, state, rows, weight, fault, place)
        if (index + 1) % SAVE_EVERY == 0:
            checkpoint.save(path, tx, state, params)
        if (index + 1) % REPORT_EVERY == 0:
            print((index + 1) // REPORT_EVERY, flush=True)

    averaged = optadamw.ema_of(state)
    loss, right = evaluate(averaged, graph, splits.validation)
    stats = optadamw.stats_of(state)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((params, state)):
        digest.update(np.asarray(leaf).tobytes())
    result = {"loss": float(loss), "accuracy": float(right.mean())}
    for name in ("step", "nonfinite", "dropped", "skipped"):
        result[name] = int(getattr(stats, name))
    print(json.dumps(result | {"digest": digest.hexdigest()}), flush=True)
    return 0


def _options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--faults", type=float, default=0.05)
    parser.add_argument("--clean", type=int, default=3, help="seeds without faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
