"""The options of `adamw`: one table of the parts that take them.

A row is an atom of the chain or a wrapper around it, with the options that become its
arguments. `transforms.build`, the words of `groups=`, errors, `describe` and the API
page read the rows. A new option is a line here and in `adamw` twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optadamw.transforms.add_decoupled_weight_decay import add_decoupled_weight_decay
from optadamw.transforms.add_slow_moment import add_slow_moment
from optadamw.transforms.amsgrad_max import amsgrad_max
from optadamw.transforms.cautious import cautious
from optadamw.transforms.chain import chain
from optadamw.transforms.clip_by_global_norm import clip_by_global_norm
from optadamw.transforms.clip_by_norm import clip_by_norm
from optadamw.transforms.clip_by_value import clip_by_value
from optadamw.transforms.clip_update_by_rms import clip_update_by_rms
from optadamw.transforms.ema_params import ema_params
from optadamw.transforms.maximize import maximize
from optadamw.transforms.multi_steps import multi_steps
from optadamw.transforms.scale_by_adam import scale_by_adam
from optadamw.transforms.scale_by_learning_rate import scale_by_learning_rate
from optadamw.transforms.skip_nonfinite import skip_nonfinite
from optadamw.transforms.skip_spikes import skip_spikes
from optadamw.transforms.transformation import Transformation
from optadamw.transforms.with_commit import with_commit
from optadamw.transforms.with_kernels import with_kernels
from optadamw.transforms.with_loss_scale import with_loss_scale
from optadamw.transforms.with_offload import with_offload
from optadamw.transforms.with_reproducible_norms import with_reproducible_norms
from optadamw.transforms.with_seed import with_seed
from optadamw.transforms.with_stats import with_stats
from optadamw.transforms.with_zero1 import with_zero1


@dataclass(frozen=True)
class Option:
    """An option of `adamw` and the argument of an atom or wrapper that it becomes."""

    name: str
    argument: str
    """SWITCH for a bool that only asks for the part; SEVERAL for True or a mapping of
    arguments of the part."""
    asks: bool = False
    """Whether the part is built only if this option is given."""
    is_common: bool = False
    """Whether the option concerns all parameters at once, so that no group sets it."""
    is_needed: bool = False
    """Whether None is refused. Otherwise None leaves the argument at its default."""
    words: Mapping[Any, Any] = field(default_factory=dict)
    """The legal values besides None and False, and the argument's value for each;
    empty: the value is passed on, and the part checks it."""
    example: str = ""
    """A value for the error that recommends the option; empty: True."""
    needs: str = ""
    """Another option without which this one would have no effect, besides the one that
    asks for the part; empty: none."""
    elsewhere: tuple[str, ...] = ()
    """Names of the option in other libraries, for the error that gives ours."""

    @property
    def remedy(self) -> str:
        """The words with which an error recommends the option."""
        shown = f", for example {self.example}" if self.example else "=True"
        return f"{self.name}{shown}"


SWITCH = ""
SEVERAL = "**"


@dataclass(frozen=True)
class Part:
    """An atom of the chain or a wrapper around it, and the options that it takes."""

    make: Callable[..., Transformation]
    options: tuple[Option, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    """Arguments of `make`, by the fields of its record that have another name."""

    @property
    def asked_by(self) -> Option | None:
        """The option without which the part is not built; None: it always is."""
        return next((option for option in self.options if option.asks), None)

    @property
    def names(self) -> dict[str, str]:
        """The names of `adamw`'s options, by the names of the part's arguments."""
        named = [option for option in self.options if option.argument.isidentifier()]
        return {option.argument: option.name for option in named}


ATOMS = (
    Part(maximize, (Option("maximize", SWITCH, asks=True),)),
    Part(
        clip_by_value,
        (Option("clip_value", "limit", asks=True, elsewhere=("clipvalue",)),),
    ),
    Part(
        clip_by_norm,
        (Option("clip_norm", "limit", asks=True, elsewhere=("clipnorm",)),),
    ),
    Part(
        clip_by_global_norm,
        (
            Option(
                "clip_global_norm",
                "limit",
                asks=True,
                is_common=True,
                example="1.0",
                elsewhere=(
                    *("max_grad_norm", "max_norm", "grad_clip", "clip_grad_norm"),
                    *("grad_clip_norm", "gradient_clip_val", "global_clipnorm"),
                ),
            ),
            Option("clip_eps", "eps", is_common=True),
        ),
    ),
    Part(
        scale_by_adam,
        (
            Option("b1", "b1", is_needed=True, elsewhere=("betas", "beta1", "beta_1")),
            Option("b2", "b2", is_needed=True, elsewhere=("betas", "beta2", "beta_2")),
            Option("eps", "eps", is_needed=True, elsewhere=("epsilon",)),
            Option("eps_root", "eps_root", is_needed=True),
            Option("mu_dtype", "mu_dtype", is_common=True),
            Option("nu_dtype", "nu_dtype", is_common=True),
            Option("nesterov", "nesterov"),
            Option("bias_correction", "bias_correction", elsewhere=("correct_bias",)),
            Option("eps_mode", "eps_mode"),
        ),
        fields={"mu": "mu_dtype", "nu": "nu_dtype"},
    ),
    Part(
        amsgrad_max,
        (
            Option(
                "amsgrad",
                "kind",
                asks=True,
                words={True: "raw", "raw": "raw", "corrected": "corrected"},
            ),
            Option("nu_dtype", "dtype", is_common=True),
        ),
        fields={"nu_max": "dtype"},
    ),
    Part(
        add_slow_moment,
        (
            Option("b3", "b3", asks=True, example="0.9999", elsewhere=("beta3",)),
            Option("slow_alpha", "alpha"),
            Option("mu_dtype", "dtype", is_common=True),
        ),
        fields={"mu_slow": "dtype"},
    ),
    Part(cautious, (Option("caution", SWITCH, asks=True, elsewhere=("cautious",)),)),
    Part(
        add_decoupled_weight_decay,
        (
            Option(
                "weight_decay",
                "weight_decay",
                is_needed=True,
                elsewhere=("wd", "weight_decay_rate", "decoupled_weight_decay"),
            ),
            Option(
                "mask",
                "mask",
                elsewhere=("weight_decay_mask", "decay_mask", "wd_mask", "mask_fn"),
            ),
            Option("weight_decay_mode", "mode"),
            Option("max_learning_rate", "max_learning_rate"),
            Option("cautious_weight_decay", "cautious"),
        ),
        fields={"where": "mask"},
    ),
    Part(
        clip_update_by_rms,
        (
            Option("clip_update_rms", "limit", asks=True, example="1.0"),
            Option("clip_update_keeps_decay", "keeps_decay"),
        ),
    ),
    Part(
        scale_by_learning_rate,
        (
            Option(
                "learning_rate",
                "learning_rate",
                is_needed=True,
                elsewhere=("lr", "step_size", "alpha", "learning_rate_schedule"),
            ),
        ),
    ),
    Part(
        ema_params,
        (
            Option(
                "ema_decay",
                "decay",
                asks=True,
                is_common=True,
                example="0.999",
                elsewhere=("ema_momentum", "use_ema"),
            ),
            Option(
                "ema_overwrite_every",
                "overwrite_every",
                is_common=True,
                elsewhere=("ema_overwrite_frequency",),
            ),
            Option("ema_debias", "debias", is_common=True),
            Option("ema_warmup", "warmup", is_common=True),
            Option("ema_dtype", "dtype", is_common=True),
        ),
        fields={"ema": "dtype"},
    ),
)
"""The parts of the chain, in its order."""

ON_BAD_MICRO_STEP = Option(
    "on_bad_micro_step", "on_bad_micro_step", needs="accumulate_steps"
)

WRAPPERS = (
    Part(chain, (Option("update_dtype", "update_dtype", asks=True),)),
    Part(
        with_commit,
        (
            Option(
                "commit",
                "commit",
                asks=True,
                example="'master'",
                elsewhere=("stochastic_rounding", "kahan_sum", "master_weights"),
            ),
            Option("residual_bits", "residual_bits"),
        ),
    ),
    Part(with_seed, (Option("seed", "seed", asks=True),)),
    Part(
        multi_steps,
        (
            Option(
                "accumulate_steps",
                "every",
                asks=True,
                example="8",
                elsewhere=(
                    *("gradient_accumulation_steps", "grad_accum_steps"),
                    *("accumulation_steps", "every_k_schedule"),
                ),
            ),
            Option("accumulator_dtype", "dtype"),
        ),
        fields={"store": "dtype"},
    ),
    Part(
        with_loss_scale,
        (
            Option(
                "loss_scale",
                "loss_scale",
                asks=True,
                elsewhere=("loss_scale_factor", "grad_scaler"),
            ),
        ),
        fields={"scale": "loss_scale"},
    ),
    Part(
        skip_nonfinite,
        (
            Option("skip_nonfinite", SWITCH, asks=True),
            ON_BAD_MICRO_STEP,
            Option("max_consecutive", "max_consecutive"),
        ),
        fields={"on_bad": "on_bad_micro_step"},
    ),
    Part(
        skip_spikes,
        (
            ON_BAD_MICRO_STEP,
            Option("max_consecutive", "max_consecutive"),
            Option("skip_spikes", SEVERAL, asks=True),
        ),
        fields={"on_bad": "on_bad_micro_step"},
    ),
    Part(
        with_zero1,
        (
            Option("zero1", "axis", asks=True, example='"data"'),
            Option("zero1_layout", "layout"),
        ),
    ),
    Part(
        with_offload,
        (Option("offload", "buffers", asks=True, example='("mu", "nu")'),),
    ),
    Part(
        with_stats,
        (Option("stats", "norms", asks=True, words={True: False, "norms": True}),),
    ),
    Part(
        with_reproducible_norms,
        (Option("reproducible_norms", SWITCH, asks=True),),
    ),
    Part(with_kernels, (Option("kernel", "kernel", asks=True),)),
)
"""The parts around the chain, the innermost first. No group sets their options."""

CHANGE_OTHERS = ("precision", "groups")
"""Options that give values to the other options and are no argument of a part."""


FREEZE = "freeze"
"""The option that only a group has: True leaves its parameters as they are."""


def group_options() -> list[str]:
    """The options that `groups=` may set for some parameters, in the chain's order."""
    options = [option for part in ATOMS for option in part.options]
    return [option.name for option in options if not option.is_common] + [FREEZE]


def our_words(name: str) -> tuple[str, ...]:
    """Return the options that another library calls `name`; () if there are none."""
    options = [option for part in (*ATOMS, *WRAPPERS) for option in part.options]
    found = [option.name for option in options if name in option.elsewhere]
    return ("groups",) if name == "param_groups" else tuple(dict.fromkeys(found))


def argument_name(maker: str, record_field: str) -> str:
    """Return the argument of `maker` that sets a field of its record."""
    for part in (*ATOMS, *WRAPPERS):
        if part.make.__name__ == maker:
            return part.fields.get(record_field, record_field)
    return record_field
