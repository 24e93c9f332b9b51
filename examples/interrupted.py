"""Kill a training with bad gradients again and again; its result keeps every bit.

    python examples/interrupted.py                  2,000 steps, 10 kills, 5 % faults
    python examples/interrupted.py --kills 100      2,000 steps, 100 kills, 5 % faults

The script trains the demo's network on handwritten digits, with accumulation over three
weighted micro-batches, a dynamic loss scale, the guard, a clip and an average of the
parameters. In 5 % of the micro-batches it puts a fault (NaN, infinity, 1e20 or 1e38)
into one element of a gradient. It then runs this training once more in a process that
it kills with SIGKILL at random moments, also within a window and while the process
saves. After each kill a new process continues from the last checkpoint.

Both trainings must end in the same bits. Their loss must also be close to that of
trainings without faults: within four standard deviations over seeds.
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
SAVE_EVERY = 7  # not a multiple of ACCUMULATE: most checkpoints lie within a window


def main(arguments=None):
    """Run the trainings, print a report, and return 0 if both promises hold."""
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
    """Run one process and return its result, or None if it was killed.

    `kill_at` is the number of reports after which the process is killed.
    """
    folder.mkdir(exist_ok=True)
    seed = options.seed if seed is None else seed
    command = [sys.executable, __file__, "--worker", str(folder), "--seed", str(seed)]
    command += ["--steps", str(options.steps), "--faults", str(faults)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("{"):
                return json.loads(line)
            if kill_at is not None and int(line) >= kill_at:
                # A random moment after the report, so that a kill can hit a save.
                try:
                    process.wait(random.uniform(0, 0.05))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    return None
    raise RuntimeError(f"the training in {folder} ended without a result")


def _work(options):
    """Train in this process; start from the checkpoint in the folder, if any."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import optadamw
    from optadamw import checkpoint
    from optadamw.cli.demo.digits import DIGITS
    from optadamw.cli.demo.evaluation import evaluate, loss_and_right

    splits, params = DIGITS.load(), DIGITS.initial(options.seed)
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
            return optadamw.scale_loss(state, loss_and_right(params, DIGITS, batch)[0])

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
        # The data depend on the index alone, so that a new process sees equal data.
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
    loss, right = evaluate(averaged, DIGITS, splits.validation)
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
