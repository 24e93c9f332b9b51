"""The arguments of `optadamw convert`; imports nothing heavy, so `--help` is quick."""

import argparse
from pathlib import Path

SUMMARY = (
    "Convert a saved optimizer state: between PyTorch, timm, Keras, TensorFlow, MLX, "
    "Optax, Flux, optimi, torchao, bitsandbytes and optadamw."
)
# Module to look for -> package that provides it: none, as a kind of file that needs
# more than NumPy says so when it is read or written.
REQUIRES: dict[str, str] = {}

FORMS = (
    *("torch", "timm", "keras", "tensorflow", "tensorflow-addons", "mlx", "optax"),
    *("flux", "optimi", "torchao", "bitsandbytes", "optadamw"),
)
BUFFERS = ("nu_max", "ema", "residual", "accumulator", "loss_scale", "kahan_comp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "source",
        type=_form,
        choices=FORMS,
        metavar="FROM",
        help=f"one of {', '.join(FORMS)}",
    )
    parser.add_argument(
        "file",
        type=_path,
        metavar="FILE",
        help="the state: .pt (.pth, .ckpt, .bin, .tar), .safetensors, .npz, .keras, "
        ".h5 (.hdf5), or a folder of Orbax",
    )
    parser.add_argument(
        "--to", dest="target", type=_form, choices=FORMS, required=True, metavar="TO"
    )
    parser.add_argument(
        "--out",
        type=_path,
        required=True,
        metavar="FILE",
        help="what is written: .pt, .safetensors, .npz, .h5, or a folder for Orbax",
    )
    parser.add_argument(
        "--params",
        type=_path,
        metavar="FILE",
        help="the parameters by their names, with the shapes they have here: "
        ".safetensors, .npz, .pt, a folder of Orbax, or a checkpoint of optadamw with "
        "parameters (default: the model, in Orbax 'params', that FILE holds beside the "
        "state)",
    )
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="where in FILE the state is, such as 'optimizer' or 'optimizer_states/0', "
        "in a folder of Orbax also 'item' or 'item/opt_state' (default: FILE is the "
        "state, or has one beside other things)",
    )
    parser.add_argument(
        "--names",
        type=_path,
        metavar="FILE.json",
        help="a list of the parameters' names in the order of FROM, or a mapping from "
        "them to its names or indices (default: the names in FILE, or the order of a "
        "model of FROM in FILE or in the file of --params: what model.state_dict() "
        "returns in a .pt for PyTorch and its relatives, a .keras for Keras)",
    )
    parser.add_argument(
        "--to-names",
        type=_path,
        metavar="FILE.json",
        help="a list or mapping as for --names, for TO (default: the order of FROM, or "
        "if TO is another library that of a model of TO in the file of --params). "
        "PyTorch loads by position: a mapping to names has to be in its order",
    )
    parser.add_argument(
        "--transpose",
        action="append",
        default=[],
        metavar="PATTERN",
        help="transpose arrays of matching parameters on the way in, such as "
        "'*/kernel'; may be given again",
    )
    parser.add_argument(
        "--to-transpose",
        action="append",
        default=[],
        metavar="PATTERN",
        help="transpose arrays of matching parameters on the way out; may be given "
        "again",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "zeros"),
        default="error",
        help="what happens to parameters that have no state in FROM (default: error)",
    )
    parser.add_argument(
        "--drop",
        action="append",
        metavar="NAME",
        default=[],
        help=f"leave a buffer behind ({', '.join(BUFFERS)}; of Optax also the path of "
        "another transformation's state, of optadamw any buffer, or 'around' for the "
        "states of Optax around it); may be given again",
    )
    parser.add_argument(
        "--amsgrad",
        choices=("raw", "corrected"),
        help="FROM was saved with it: 'raw' of Keras and tf.keras, whose files do not "
        "tell, 'corrected' of Optax",
    )
    parser.add_argument(
        "--use-ema", action="store_true", help="FROM, Keras or tf.keras, was saved so"
    )
    parser.add_argument(
        "--accumulate",
        type=_at_least_one,
        metavar="N",
        help="gradients to a step, if the state accumulates",
    )
    parser.add_argument(
        "--learning-rate",
        type=_rate,
        metavar="X",
        help="which some states hold (default: as in FROM); 'schedule' writes the "
        "variables of an optimizer of Keras that has one",
    )
    for name, text in (
        ("--b1", "decay of the first moment"),
        ("--b2", "decay of the second moment"),
        ("--eps", "added to the root"),
        ("--weight-decay", "which groups of PyTorch hold"),
    ):
        parser.add_argument(
            name,
            type=float,
            metavar="X",
            help=f"{text} (default: as in FROM, or as in adamw)",
        )
    parser.add_argument(
        "--no-limit",
        dest="is_limited",
        action="store_false",
        help="also read files that announce more than 256 MiB of arrays and more than "
        "20 times their own size",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a file that exists, or a folder with a checkpoint of Orbax alone",
    )


def _form(text: str) -> str:
    """Return the name of a library, also if it is written as that of its module."""
    form = text.replace("_", "-")
    return form if form in FORMS else text


def _path(text: str) -> Path:
    # Path("") is ".", the folder in which the command runs.
    if not text:
        raise argparse.ArgumentTypeError("must be a path; got ''.")
    return Path(text)


def _rate(text: str) -> float | str:
    try:
        return text if text == "schedule" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a number, or 'schedule' for Keras; got {text!r}."
        ) from None


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"must be a whole number >= 1; got {text!r}. Example: --accumulate 4."
        )
    return int(text)
