"""The names that you import to write a rule of your own.

docs/guides/extending.md shows how.

Import them from this module: the modules that define them may move. `chain` and the
formats `stochastic` and `blockwise` are names of `optadamw` itself. The ranges for
`hyperparameter` are `NON_NEGATIVE`, [0, inf); `POSITIVE`, (0, inf); `BETA`, [0, 1); and
`FRACTION`, [0, 1].
"""

from optadamw.base.errors import invalid as invalid
from optadamw.base.errors import misplaced as misplaced
from optadamw.base.errors import mistyped as mistyped
from optadamw.base.hyperparameters import Clock as Clock
from optadamw.base.hyperparameters import Hyperparameter as Hyperparameter
from optadamw.base.hyperparameters import every_so_many as every_so_many
from optadamw.base.hyperparameters import hyperparameter as hyperparameter
from optadamw.base.hyperparameters import switch as switch
from optadamw.base.hyperparameters import whole_steps as whole_steps
from optadamw.base.interval import BETA as BETA
from optadamw.base.interval import FRACTION as FRACTION
from optadamw.base.interval import NON_NEGATIVE as NON_NEGATIVE
from optadamw.base.interval import POSITIVE as POSITIVE
from optadamw.base.interval import Interval as Interval
from optadamw.base.masks import Selector as Selector
from optadamw.base.masks import selector as selector
from optadamw.base.numerics import one_minus_power as one_minus_power
from optadamw.base.numerics import quotient as quotient
from optadamw.base.numerics import sqrt as sqrt
from optadamw.base.reductions import Reductions as Reductions
from optadamw.base.squares import norm as norm
from optadamw.base.types import Array as Array
from optadamw.base.types import ScalarOrSchedule as ScalarOrSchedule
from optadamw.rules.leaf import Leaf as Leaf
from optadamw.rules.leaf import Overwrite as Overwrite
from optadamw.rules.rule import Rule as Rule
from optadamw.rules.rule import Scalar as Scalar
from optadamw.rules.rule import Shared as Shared
from optadamw.rules.rule import Stage as Stage
from optadamw.store.formats import Stored as Stored
from optadamw.store.formats import storage as storage
from optadamw.store.slot import Slot as Slot
from optadamw.store.store import Storage as Storage
from optadamw.transforms.call import prints_as_call as prints_as_call
from optadamw.transforms.transformation import Transformation as Transformation
from optadamw.transforms.transformation import atom as atom
