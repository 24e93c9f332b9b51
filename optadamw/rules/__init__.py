"""Rules: what happens to one parameter, one rule a file.

AdamW is Algorithm 2 of Loshchilov & Hutter, arXiv 1711.05101v3. Its lines, and the
functions that compute them in `optadamw/`:

    line  paper                             function
    1     alpha, beta1, beta2, eps, lambda  adamw.py:adamw
    2     t = 0                             control/control.py:Control.initial_scalars
    2     m = 0, v = 0                      walk/init.py:init
    4     t = t + 1                         base/clock.py:Clock.at
    5     the gradient of this batch        walk/inputs.py:checked_inputs
    6     g, in float32                     leaf/compute.py:decode
    7     m = beta1 m + (1 - beta1) g       rules/adam.py:Moments.apply
    8     v = beta2 v + (1 - beta2) g^2     rules/adam.py:Moments.apply
    9     1 - beta1^t                       rules/adam.py:Moments.scalars
    9     m^ = m / (1 - beta1^t)            rules/adam.py:Direction.apply
    10    1 - beta2^t                       rules/adam.py:Moments.scalars
    10    v^ = v / (1 - beta2^t)            rules/adam.py:Direction.apply
    11    eta alpha, the learning rate      rules/rate.py:Rate.scalars
    11    a schedule of it                  base/hyperparameters.py:Scheduled.at
    12    m^ / (sqrt(v^) + eps)             rules/adam.py:Direction.apply
    12    - eta alpha                       rules/rate.py:Rate.apply
    12    - eta lambda                      rules/decay.py:Decay.scalars
    12    - eta lambda theta                rules/decay.py:Decay.apply
    12    the quotient plus the decay       rules/leaf.py:Leaf.value
    12    theta + update                    leaf/compute.py:write_parameter
    12    theta in its dtype                commit/commit.py:Commit.write

Lines 3, 13 and 14, the loop, are the user's. The learning rate that a user gives is
eta alpha. By default the weight decay is multiplied by this learning rate too
(`weight_decay_mode`).
"""
