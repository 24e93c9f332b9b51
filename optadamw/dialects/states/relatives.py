"""Refuse the states of other optimizers, which their entries and options tell."""

from collections.abc import Collection, Sequence

from optadamw.base.errors import at_leaf
from optadamw.dialects.states.arrays import scalar
from optadamw.dialects.states.contents import Saved, unquoted

RELATIVES = {
    "state1": "bitsandbytes: use from_bitsandbytes",
    "__bnb_optimizer_quant_state__": "bitsandbytes: use from_bitsandbytes",
    "kahan_comp": "optimi: use from_optimi",
    "unorm_vec": "LAMB or LARS",
    "momentum_buffer": "SGD or Muon",
    "exp_inf": "Adamax",
    "mu_product": "torch.optim.NAdam, whose bias correction is another",
    "square_avg": "RMSprop or Adadelta",
    "exp_avg_sq_row": "Adafactor",
}
"""The keys by which states of other optimizers are known, and their names."""


FOREIGN = {
    "dampening": "SGD",
    "delta": "AdamP",
    "wd_ratio": "AdamP",
    "clip_exp": "Adopt",
    "momentum_decay": "NAdam",
    "n_sma_threshold": "RAdam",
    "buffer": "RAdam",
    "trust_clip": "Lamb",
    "always_adapt": "Lamb",
    "grad_averaging": "LAMB or NovoGrad of apex",
    "max_coeff": "LAMB of DeepSpeed",
}
"""The options in a group by which other optimizers with Adam's entries are known."""


def check_decay(one: Saved) -> None:
    """Refuse Adam with L2, which only its group tells from AdamW."""
    # The keys of PyTorch, optimi and pytorch_optimizer.
    for key in ("decoupled_weight_decay", "decouple_wd", "weight_decouple"):
        if one.options.get(key, True):
            continue
        where = f"weight_decay of group {one.group}"
        decay = scalar(where, one.options.get("weight_decay", 0.0))
        if decay:
            raise at_leaf(
                unquoted(one.label),
                f"its group has weight_decay={decay!r} and {key}=False. It is Adam "
                "with L2, which adds the decay to the gradient, so it went through the "
                "moments: another optimizer than AdamW.",
                "Convert a run of AdamW, or of Adam without weight decay.",
            )


def check_options(one: Saved) -> None:
    """Refuse the state of another optimizer, which only the options tell."""
    known = next((of for key, of in FOREIGN.items() if key in one.options), None)
    betas = one.options.get("betas")
    if isinstance(betas, Sequence) and len(betas) == 3:
        known = "AdEMAMix or Adan"
    if known is not None:
        raise at_leaf(
            unquoted(one.label),
            f"its group has the options of {known}, whose moments are others than "
            "AdamW's.",
            "Convert the state of AdamW or Adam.",
        )
    for key in ("correct_bias", "bias_correction"):  # transformers', apex's
        if one.options.get(key, True) is not False:
            continue
        raise at_leaf(
            unquoted(one.label),
            f"its group has {key}=False, and a conversion cannot tell that the "
            "moments were not corrected.",
            f"Leave {key} out of the group, and go on in Python with "
            "adamw(bias_correction=False).",
        )


def check_entries(
    title: str, one: Saved, needed: Collection[str], legal: Collection[str]
) -> None:
    """Refuse the state of another optimizer, which its entries tell."""
    for key in one.entries:
        if key not in legal:
            known = RELATIVES.get(str(key))
            of = f", as the state of {known}" if known else ""
            raise at_leaf(
                unquoted(one.label),
                f"it has '{key}'{of}; the state of {title} has "
                f"{', '.join(sorted(legal))}.",
                "Convert the state of AdamW or Adam.",
            )
    for key in needed:
        if one.entries.get(key) is None:
            raise at_leaf(
                unquoted(one.label),
                f"it lacks '{key}': {', '.join(map(str, one.entries)) or 'empty'}.",
                f"It is not the state of AdamW or Adam of {title}.",
            )
