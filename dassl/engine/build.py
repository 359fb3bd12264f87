from dassl.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg, name=None):
    """Return the trainer named `name` (a teacher beside a student, say), or else cfg.TRAINER.NAME.

    Raises:
        UserError: The name is unknown.
    """
    return TRAINER_REGISTRY.build(name or cfg.TRAINER.NAME, "trainer (TRAINER.NAME)", cfg)
