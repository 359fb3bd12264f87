"""Scalars of a training, written for TensorBoard."""

import sys

from torch.utils.tensorboard import SummaryWriter

from dassl.utils import is_main


class ScalarMethods:
    """For TrainerBase, whose `_writer` is open during a training."""

    def init_writer(self, log_dir, purge_step=None):
        """Open TensorBoard's event file.

        Args:
            log_dir: Its folder.
            purge_step: First step of a continued run; TensorBoard hides what the stopped run wrote from there on.
        """
        if self._writer is None and is_main():
            print(f"Initialize tensorboard (log_dir={log_dir})")
            self._writer = SummaryWriter(log_dir=log_dir, purge_step=purge_step)

    def close_writer(self):
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                print(f"writing for TensorBoard stops: {error.strerror or error}", file=sys.stderr)

    def write_scalar(self, tag, scalar_value, global_step=None):
        """Write a number to TensorBoard; do nothing outside of training, or after a write has failed."""
        if self._writer is not None:
            try:
                self._writer.add_scalar(tag, scalar_value, global_step)
            except OSError:  # a full disk, say, should not stop the run
                self.close_writer()
