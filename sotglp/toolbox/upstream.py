"""What the trainers use of our toolbox and upstream Dassl lacks, with what stands for it there.

All that depends on the toolbox is decided here.
"""

import os.path as osp
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dassl.data import samplers
from dassl.engine import TrainerX
from dassl.utils import load_checkpoint

OURS = hasattr(samplers, "EpochSeeds")


class Hooks:
    """Extensions of our TrainerX. A toolbox that has one of them comes first.

    Attributes:
        start_batch: finished batches of the first epoch; upstream resumes at the start of an epoch.
        val_loader, test_loader: the toolbox's.
    """

    start_batch = 0
    val_loader: Any
    test_loader: Any

    def batches_to_evaluate(self, split: str) -> Any:
        return self.val_loader if split == "val" else self.test_loader

    def spending(self, part: str) -> AbstractContextManager[None]:
        return nullcontext()


class UpstreamTrainer(TrainerX, Hooks):
    """Upstream's TrainerX as the trainers use ours."""

    def detect_anomaly(self, loss: Any, terms: Any = None, what: str = "Loss") -> None:
        """Check that a loss is finite; upstream's message has neither its terms nor a name."""
        super().detect_anomaly(loss)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the weights; upstream's own fails on a checkpoint without a result on validation (its issue 56)."""
        if not directory:
            return super().load_model(directory)
        file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = osp.join(directory, name, file)
            checkpoint = load_checkpoint(path)
            self._models[name].load_state_dict(checkpoint["state_dict"])
            print(f"Load {path} to {name} (epoch {checkpoint['epoch']})")


Trainer: Any = TrainerX if OURS else UpstreamTrainer  # the base of ours


def ignore(arguments: dict[str, Any], method: str) -> None:
    """Warn once of each keyword argument that a method does not know; other toolboxes refuse them.

    Raises:
        TypeError: the toolbox is not ours.
    """
    if arguments and not OURS:
        raise TypeError(f"{method}() got unexpected arguments {', '.join(arguments)}")
    if arguments:
        from dassl.engine import forks  # which only our toolbox has

        forks.ignore(arguments, method)


def plain_sampler(sampler: Any) -> Any:
    """Return the sampler of the indices alone, without the seeds that our toolbox adds for its workers."""
    return sampler.sampler if OURS and isinstance(sampler, samplers.EpochSeeds) else sampler
