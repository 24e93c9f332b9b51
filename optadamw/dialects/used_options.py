"""Refuse the options of `optadamw convert` that would change nothing."""

from optadamw.dialects.conversion import FORMS
from optadamw.dialects.states.form import Plan
from optadamw.dialects.states.group_numbers import PLACES
from optadamw.store.state import State

_GIVEN_TO = {
    "amsgrad": "FROM",
    "use_ema": "FROM",
    "accumulate": "FROM",
    "missing": "FROM",
    "names": "FROM",
    "to_names": "TO",
}
"""The side that an option is about; one that is not listed may be about both."""


def check_used(plan: Plan) -> None:
    """Refuse an option that neither reading nor writing uses.

    `check_accumulates` refuses --accumulate, as only the state tells if it is used.

    Raises:
      ValueError: such an option was given, or the other kind of AMSGrad's maximum, or
        a schedule for a library whose states always hold the learning rate.
    """
    source, target = FORMS.get(plan.source), FORMS.get(plan.target)
    used = {"accumulate"}
    if source is not None:
        used |= {"missing", "names", *source.read_with}
    if target is not None:
        used |= {"to_names", *target.written_with}
        used |= set(PLACES) if target.is_state_dict else set()
    plain = Plan(plan.source, plan.target)
    for name in (*_GIVEN_TO, *PLACES):
        if name not in used and getattr(plan, name) != getattr(plain, name):
            raise ValueError(_unused(plan, name))
    may_lack = target is not None and target.may_lack_rate
    if plan.learning_rate == "schedule" and not may_lack:
        raise ValueError(
            f"`--learning-rate schedule` is for Keras; {plan.target} needs a number."
        )
    kind = None if source is None else source.peer.maximum
    if plan.amsgrad not in (None, kind):
        raise ValueError(
            f"`--amsgrad` is {plan.amsgrad}, and {plan.source} keeps the maximum of "
            f"the {kind} second moments: --amsgrad {kind}."
        )


def check_accumulates(plan: Plan, state: State) -> None:
    """Refuse --accumulate for a state without an accumulator.

    Keras's variables are told apart with it, also if the accumulator is dropped then.

    Raises:
      ValueError: it was given, and the state has none.
    """
    source = FORMS.get(plan.source)
    is_read = source is not None and "accumulate" in source.read_with
    is_dropped = is_read and "accumulator" in plan.drop
    if plan.accumulate is not None and state.accumulator is None and not is_dropped:
        raise ValueError(_unused(plan, "accumulate"))


def _unused(plan: Plan, name: str) -> str:
    sides = {"FROM": f"{plan.source} (FROM)", "TO": f"{plan.target} (TO)"}
    side = _GIVEN_TO.get(name)
    about = sides[side] if side else " and ".join(sides.values())
    verb = "does" if side else "do"
    if name == "accumulate":
        reason = f"the state of {about} has no accumulator"
    else:
        reason = f"{about} {verb} not use it"
    return f"`--{name.replace('_', '-')}` would change nothing: {reason}. Leave it out."
