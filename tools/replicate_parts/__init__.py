"""The parts of tools/replicate: the steps, one a file in steps/, and what they share.

steps/__init__.py lists them in their order.  Shared are step.py (what a step is, and what it is given), budget.py (its
time), command.py (programs with a time limit), bench.py and training.py (two kinds of them), sizes.py (networks by
device), images.py (whatever images there are, as betons), record.py (what is kept of all steps), page.py and goals.py
(the same for people), figures.py, outcomes.py.  This process imports no torch: all work is done by commands that a user
can type, and none of them can take the others along.
"""
