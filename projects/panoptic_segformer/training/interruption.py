"""What a training does when it is asked to stop: finish the step, write a checkpoint, end.

Ctrl-C, and the signals by which Slurm and cloud machines announce their end.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

from detectron2.engine import HookBase
from detectron2.utils import comm

__all__ = ["SaveOnSignal"]

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
# Exit code of a process that a signal ended, by the shells' convention.
_OF_SIGNALS = 128


class SaveOnSignal(HookBase):
    """Ends the training behind a checkpoint after a signal to any of its processes; a second Ctrl-C ends it at once.

    Belongs behind the hook of the learning rate, whose state is in the checkpoint.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._earlier: dict[int, object] = {}

    def before_train(self) -> None:
        """Listen for signals, where that is possible: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._remember) for number in SIGNALS}

    def after_step(self) -> None:
        """Write the checkpoint and leave, if a process of the training was asked to.

        Raises: SystemExit: with 128 + the signal's number.
        """
        loop = self.trainer._trainer
        if not loop.must_stop:
            return
        name = f"model_{self.trainer.iter:07d}"
        self.trainer.checkpointer.save(name, iteration=self.trainer.iter)
        comm.synchronize()  # Launchers end all processes when one has ended.
        logger.warning("asked to stop: ended after iteration %d; go on with --resume", self.trainer.iter)
        raise SystemExit(_OF_SIGNALS + (self._signal or signal.SIGTERM))

    def after_train(self) -> None:
        """Leave the signals to whoever had them before."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number
        self.trainer._trainer.wants_stop = True
        logger.warning("got %s: will end after this step, behind a checkpoint", signal.Signals(number).name)
