"""Find hyperparameters: sweeps as one program, and the learning-rate range test."""
