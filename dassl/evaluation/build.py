from dassl.utils import Registry

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg, **kwargs):
    """Return the evaluator named cfg.TEST.EVALUATOR.

    Raises:
        UserError: The name is unknown.
    """
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, "evaluator (TEST.EVALUATOR)", cfg, **kwargs)
