"""The final loss of trainings by the storage of the optimizer's state.

`python -m benchmarks.precision --output precision`, from the root of a checkout, trains
a small decoder and a perceptron with each way to keep parameters and moments, once for
each of five seeds, and sets the final losses beside those of full precision. With
`--convex` it takes 10,000 steps with tiny gradients instead. PyTorch, torchao and
bitsandbytes take part where they are installed. Bind it to a core: `taskset -c 1`.

Storage alone is compared. Every contender keeps its parameters in its own dtype, but
the model computes in float32; held-out losses are those of the parameters as they are
kept. Gradients have the dtype of the parameters, so that whoever keeps bfloat16 also
sees gradients rounded to it. Weights and batches of a seed are the same for all, the
first weights rounded where they are kept in bfloat16. Random bits of stochastic
rounding do not change with the seed.

"Within full's" says that the mean difference to full precision is not larger than the
standard error of full precision's own loss over seeds.
"""
