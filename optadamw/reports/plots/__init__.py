"""Plots of a training, of a sweep, and of a plan; `optadamw.plotting` is their face.

Figures are made without pyplot, so no global state changes and no display is needed.
"""
