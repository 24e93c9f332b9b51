"""The peers' own cases, their inputs and expected numbers taken as facts (R5).

Hyperparameter rows, error rows and golden values of the tests of Keras, PyTorch, Optax,
MLX, TensorFlow Addons, timm and optimi, asked of the calls of the same names here.
"""
