from dassl.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg):
    """Make the trainer that cfg.TRAINER.NAME names."""
    return TRAINER_REGISTRY.build(cfg.TRAINER.NAME, "trainer (TRAINER.NAME)", cfg)
