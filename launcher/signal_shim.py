"""The container entrypoint that lets SIGTERM reach train.py.

In AWS's training images PID 1 is a bash without a trap: a stop, the time limit and a spot interruption end
in SIGKILL with nothing saved. This entrypoint starts training as the image would and forwards the signal to
the process whose pid train.py writes to output/pid (after it has set its handler). It waits until training is
really gone and exits with its code.

SIGTERM must not go to the toolkit between the two: that breaks the pipe to train.py and loses the model.
"""

from __future__ import annotations

# The API takes at most 256 characters and no line break in one string of ContainerEntrypoint.
_SCRIPT = (
    # In the background, since output/pid may not be there yet and the trap must not hold up the wait; it ends
    # with the shell ($$). The trap comes before the start, so that no signal falls between the two.
    "B=${SAGEMAKER_BASE_DIR:-/opt/ml};"
    "trap '(while kill -0 $$&&! kill $(<$B/output/pid);do sleep 1;done)2>/dev/null&' TERM;"
    "r=$(type -P start_with_right_hostname.sh);${r:+bash -m $r} train&p=$!;"
    # A trapped signal ends `wait` early; bash keeps the code of the ended child for the last one.
    "while kill -0 $p;do wait $p;done 2>/dev/null;wait $p"
)

ENTRYPOINT: tuple[str, ...] = ("/bin/bash", "-c", _SCRIPT)
