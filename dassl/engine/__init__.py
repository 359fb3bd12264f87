from .build import TRAINER_REGISTRY, build_trainer
from .trainer import SimpleTrainer, TrainerBase, TrainerX


def __getattr__(name):
    if name in ("TrainerXU", "SimpleNet"):
        raise ImportError(
            f"dassl.engine.{name} is for domain adaptation and semi-supervised learning only, which this toolbox "
            "leaves out: use TrainerX"
        )
    raise AttributeError(f"module {__name__} has no attribute {name}")
