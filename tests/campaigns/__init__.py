"""Campaigns: long tries to break the library, each one a command that stays.

    python -m tests.campaigns                     the short form of every campaign
    python -m tests.campaigns drift --full        the whole of one

A campaign is one file of this folder with a function `cases(full)`. Add a file, and the
command and `test_short.py` find it by its name.
"""
