"""Ends in the way that its hyperparameter says."""

import os
import signal
import sys

how = sys.argv[sys.argv.index("--how") + 1]
if how == "raise":
    raise ValueError("the learning rate is a banana")
if how == "exit":
    sys.exit(7)
os.kill(os.getpid(), signal.SIGKILL)
