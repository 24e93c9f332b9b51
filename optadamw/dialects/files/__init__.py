"""The files in which peers save: .pt, .safetensors, .h5, .npz."""
