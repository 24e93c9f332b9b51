"""Tests of sweeps and of the learning-rate range test."""
