from dassl.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg, name=None):
    """Make the trainer that cfg.TRAINER.NAME names, or `name` (a teacher beside a student)."""
    return TRAINER_REGISTRY.build(name or cfg.TRAINER.NAME, "trainer (TRAINER.NAME)", cfg)
