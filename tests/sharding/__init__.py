"""Tests of the shardings of states; most need several devices and are lanes."""
