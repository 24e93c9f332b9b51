"""bfloat16 that trains: Optax and optadamw beside float32, in loss and in bytes."""

from collections.abc import Callable
from functools import partial

import jax
import optax

import optadamw
from optadamw.cli.demo import figures, report, summary
from optadamw.cli.demo.chapter import Chapter, Plot
from optadamw.cli.demo.optimizers import kernels, schedule
from optadamw.cli.demo.progress import Progress
from optadamw.cli.demo.settings import Settings
from optadamw.cli.demo.tasks import TASKS
from optadamw.cli.demo.training import Epoch, Run, train

LABELS = {
    "float32": "optax.adamw, float32",
    "optax": "optax.adamw, bfloat16",
    "compact": 'optadamw.adamw(precision="compact"), bfloat16',
}

_QUESTION = (
    "A bfloat16 number has 8 significant bits. An update smaller than 1/256 of its "
    "weight is mostly rounded away, so training stalls without an error. Compact "
    "rounds new weights at random, right on average, and stores both moments in 8-bit "
    "codes. All three trainings see the same batches at the same rates, a fifth of the "
    "demo's, where updates are small."
)


def run(settings: Settings, progress: Progress) -> Chapter:
    """Train in float32 and twice in bfloat16, and compare losses and bytes."""
    task = TASKS[settings.model]
    splits = task.load()
    slower = settings.at_rate(settings.learning_rate / 5)
    runs = {}
    with progress.task("Precision", 3 * settings.epochs, "epochs") as advance:
        for name, tx in _optimizers(slower).items():
            dtype = None if name == "float32" else "bfloat16"
            told = partial(_advance, advance, LABELS[name])
            runs[name] = train(tx, task, splits, slower, told, dtype=dtype)
    losses = {name: _last_loss(run) for name, run in runs.items()}
    sizes = {name: bytes_per_parameter(run) for name, run in runs.items()}
    path = settings.output / "precision.png"
    histories = {LABELS[name]: summary.records(run) for name, run in runs.items()}
    plots = []
    if settings.plots:
        plots.append(
            Plot(
                figures.losses(histories, path),
                "Validation loss by epoch of the three trainings.",
            )
        )
    facts = {
        name: {
            "validation_loss": losses[name],
            "bytes_per_parameter": sizes[name],
            **summary.of_run(run),
        }
        for name, run in runs.items()
    }
    return Chapter(
        "bfloat16 that trains",
        _QUESTION,
        findings(losses, sizes),
        _table(losses, sizes),
        plots,
        facts,
        [
            f"{LABELS[name]}: the loss was not finite at step {run.failed_step}."
            for name, run in runs.items()
            if run.failed_step is not None
        ],
    )


def findings(losses: dict[str, float], sizes: dict[str, float]) -> list[str]:
    """Say how far the two bfloat16 trainings end from float32, and their bytes."""
    differences = {
        name: losses[name] - losses["float32"] for name in ("optax", "compact")
    }
    nearer = abs(differences["compact"]) < abs(differences["optax"])
    return [
        f"The validation loss in float32 is {losses['float32']:.4f}. In bfloat16 "
        f"optax.adamw ends {_apart(differences['optax'])}, compact "
        f"{_apart(differences['compact'])}"
        + ("." if nearer else ": here compact is not nearer to float32."),
        f"Parameters and state take {sizes['float32']:.1f} bytes per parameter in "
        f"float32, {sizes['optax']:.1f} with optax.adamw in bfloat16 and "
        f"{sizes['compact']:.1f} with compact, measured over all arrays of this run.",
    ]


def bytes_per_parameter(run: Run) -> float:
    """Return the bytes of parameters and state, divided by the parameters' number."""
    leaves = jax.tree.leaves((run.params, run.state))
    return sum(leaf.nbytes for leaf in leaves) / summary.size(run.params)


def _optimizers(settings: Settings) -> dict[str, optax.GradientTransformation]:
    rate, decay = schedule(settings), settings.weight_decay
    plain = optax.adamw(rate, weight_decay=decay, mask=kernels)
    compact = optadamw.adamw(
        rate,
        weight_decay=decay,
        mask="*/kernel",
        precision="compact",
        skip_nonfinite=True,
        seed=settings.seed,
    )
    return {"float32": plain, "optax": plain, "compact": compact}


def _advance(advance: Callable[[str], None], label: str, epoch: Epoch) -> None:
    advance(report.short(label, epoch))


def _last_loss(run: Run) -> float:
    return run.history[-1].validation_loss


def _apart(difference: float) -> str:
    if abs(difference) < 5e-5:
        return "at that loss to four digits"
    return f"{abs(difference):.4f} {'above' if difference >= 0 else 'below'} it"


def _table(losses: dict[str, float], sizes: dict[str, float]) -> list[list[str]]:
    rows = [["training", "validation loss", "bytes per parameter"]]
    for name, label in LABELS.items():
        rows.append([label, f"{losses[name]:.4f}", f"{sizes[name]:.2f}"])
    return rows
