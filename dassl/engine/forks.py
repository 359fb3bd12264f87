"""Methods and arguments that forks of Dassl added to its trainers, for the repositories that call them."""

import warnings

import torch

IGNORED = set()  # arguments that were reported


def ignore(arguments, method):
    """Warn that a method ignores keyword arguments, such as ATPrompt's `test(is_final=True)`; once for each name."""
    for name in arguments:
        if name not in IGNORED:
            IGNORED.add(name)
            warnings.warn(f"{method}() of this toolbox does not know the argument {name}: it is ignored", stacklevel=3)


class ForkMethods:
    """A base of TrainerBase with these methods."""

    def prograd_backward_and_update(self, loss_a, loss_b, lambda_=1, names=None):
        """Take a step that reduces loss_a, without the part of each parameter's gradient that opposes loss_b's.

        If g_a . g_b < 0 for a parameter, g_a loses lambda_ times its projection on g_b (ProGrad, arXiv 2205.14865).
        Four repositories call this method, among them ProGrad and KgCoOp, and so does the ProGrad of this one.

        Args:
            loss_a: The loss to reduce, a scalar.
            loss_b: The loss whose gradient is not opposed, a scalar.
            lambda_: Share of the opposing part that is removed.
            names: Names of the models that take the step; all if None.

        Raises:
            FloatingPointError: A loss is not finite.
        """
        self.model_zero_grad(names)
        self.detect_anomaly(loss_b)
        models = [self._models[name] for name in self.get_model_names(names)]
        parameters = [p for model in models for p in model.parameters() if p.requires_grad]
        gradients_b = torch.autograd.grad(loss_b, parameters, retain_graph=True, allow_unused=True)
        self.model_backward(loss_a)
        for parameter, g_b in zip(parameters, gradients_b, strict=True):
            if parameter.grad is not None and g_b is not None:
                direction = g_b / g_b.norm().clamp(min=torch.finfo(g_b.dtype).tiny)
                parameter.grad -= lambda_ * (parameter.grad * direction).sum().clamp(max=0) * direction
        self.model_update(names)
