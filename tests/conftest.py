"""Tests keep to one thread: the machine's cores belong to the ranks that the distributed tests start."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; runs and processes of tests take it as the user's own choice

import torch

torch.set_num_threads(1)

# Whoever runs the tests in the background or under nohup has these two ignored, and every process below would inherit
# it: the tests of signals speak of processes that were started to listen.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
