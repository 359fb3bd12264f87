"""The base class of trainers: models by name, checkpoints, steps and the loop over epochs."""

import time
from collections import Counter, OrderedDict
from contextlib import contextmanager

import torch

from dassl.utils import tolist_if_not

from .checkpoints import CheckpointMethods
from .forks import ForkMethods
from .scalars import ScalarMethods


class TrainerBase(CheckpointMethods, ForkMethods, ScalarMethods):
    """Models by name with their optimizers and schedules; checkpoints; the loop over epochs.

    A checkpoint is the file <directory>/<model name>/model.pth.tar-<finished epochs>. Beside the states of model,
    optimizer and schedule it holds `best_result`, the state of `scaler` and what the weights belong to (`made_with`).

    Attributes:
        parallel: Whether several processes can train as one.
        class_specific: Whether the weights belong to certain classes and are useless for others; None if the trainer
            does not say so, as those of other repositories.
        scaler: A torch GradScaler if the trainer uses one, else None.
        best_result: The best result on validation so far.
        results: Numbers of the trainer that join the evaluator's in results.json.
        spent: {part of the run: seconds that it has taken}: "training", "testing", and what a trainer tells apart.
        epoch: The current epoch, from 0.
        batch_idx: The current batch of the epoch, from 0.
        start_batch: Batches of the first epoch that were finished before the run was stopped.
    """

    parallel = False
    class_specific = None

    def __init__(self):
        self._models = OrderedDict()
        self._optims = OrderedDict()
        self._scheds = OrderedDict()
        self._writer = None
        self.scaler = None
        self.best_result = float("-inf")
        self.results = {}
        self.spent = Counter()
        self.start_epoch = self.epoch = self.max_epoch = 0
        self.batch_idx = 0
        self.start_batch = 0
        self.random_states = {}  # "epoch": at its start, "step": after the last step; empty between epochs
        self.last_saved = time.monotonic()

    def register_model(self, name="model", model=None, optim=None, sched=None):
        """Register a model, with its optimizer and schedule, to be saved, resumed and switched between modes."""
        if name in self._models:
            raise AssertionError(f'a model named "{name}" is already registered')
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names=None):
        """Return the given names as a list, or the names of all models if None.

        Raises:
            KeyError: A name is not registered.
        """
        if names is None:
            return list(self._models)
        names = tolist_if_not(names)
        for name in names:
            if name not in self._models:
                raise KeyError(f'no model named "{name}" is registered; registered: {list(self._models)}')
        return names

    @contextmanager
    def spending(self, part):
        """Add the seconds of the block to `spent[part]`, without those of such blocks inside it."""
        before, start = self.spent.total(), time.perf_counter()
        try:
            yield
        finally:
            inside = self.spent.total() - before
            self.spent[part] += time.perf_counter() - start - inside

    def learned_parameters(self):
        """Return how many numbers the method learns: those of the registered models that have gradients."""
        parameters = {p for model in self._models.values() for p in model.parameters() if p.requires_grad}
        return sum(p.numel() for p in parameters)

    def backbone_file(self):
        """Return the path of the file that the backbone's weights come from; None if the trainer does not know it."""
        return None

    def set_model_mode(self, mode="train", names=None):
        """Switch models to the mode "train", or "test" or "eval", which are the same."""
        if mode not in ("train", "test", "eval"):
            raise ValueError(f'mode must be train, test or eval, got "{mode}"')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names=None):
        """Step the schedules of the learning rate, once per epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names=None):
        """Return the learning rate of the first parameter group of the first model; 0 without an optimizer."""
        optim = self._optims[self.get_model_names(names)[0]]
        return 0.0 if optim is None else optim.param_groups[0]["lr"]

    def detect_anomaly(self, loss, terms=None, what="Loss"):
        """Check that a loss is finite.

        Args:
            loss: The loss, a tensor.
            terms: {name: tensor} of its terms, for the error message.
            what: Name of `loss` in the message.

        Raises:
            FloatingPointError: It is not finite. The message gives epoch, batch and the terms that are not finite.
        """
        if not torch.isfinite(loss).all():
            wrong = [name for name, term in (terms or {}).items() if not torch.isfinite(term).all()]
            of_terms = f" of {' and '.join(wrong)}" if wrong else ""
            raise FloatingPointError(
                f"{what}{of_terms} is infinite or NaN at epoch {self.epoch + 1}, batch {self.batch_idx + 1}: "
                "a lower OPTIM.LR or full precision may help"
            )

    def model_zero_grad(self, names=None):
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss):
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names=None):
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss, names=None):
        """Take a step of the optimizers that reduces the loss."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def train(self, start_epoch, max_epoch):
        """Run the epochs from `start_epoch`, the number of finished ones, until `max_epoch` are finished.

        `before_train` may set other numbers in `self.start_epoch` and `self.max_epoch`.
        """
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()
        epochs = range(self.start_epoch, self.max_epoch)
        for self.epoch in epochs:
            for part in ("before_epoch", "run_epoch", "after_epoch"):
                getattr(self, part)()
        self.after_train()

    def before_train(self):
        """Prepare the training; by default nothing."""

    def before_epoch(self):
        """Prepare an epoch; by default nothing."""

    def run_epoch(self):
        """Train for one epoch."""
        raise NotImplementedError(f"{type(self).__name__} has no run_epoch()")

    def after_epoch(self):
        """Finish an epoch; by default nothing."""

    def after_train(self):
        """Finish the training; by default nothing."""

    def test(self):
        """Evaluate the models."""
        raise NotImplementedError(f"{type(self).__name__} has no test()")
