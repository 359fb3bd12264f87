from dassl.utils import Registry

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg, **kwargs):
    """Make the evaluator that cfg.TEST.EVALUATOR names."""
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, "evaluator (TEST.EVALUATOR)", cfg, **kwargs)
