"""A data manager with one more loader, whose images come with a second view."""

from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.transforms import build_transform


class TwoViews(DatasetWrapper):
    def __getitem__(self, idx):
        item = super().__getitem__(idx)
        item["flipped"] = item["img"].flip(-1)
        return item


class ViewsManager(DataManager):
    def __init__(self, cfg):
        tfm = build_transform(cfg, is_train=True, choices=["random_resized_crop", "normalize"])
        super().__init__(cfg, custom_tfm_train=tfm)
        self.train_loader_views = build_data_loader(
            cfg,
            sampler_type=cfg.DATALOADER.TRAIN_X.SAMPLER,
            data_source=self.dataset.train_x,
            batch_size=cfg.DATALOADER.TRAIN_X.BATCH_SIZE,
            n_domain=cfg.DATALOADER.TRAIN_X.N_DOMAIN,
            n_ins=cfg.DATALOADER.TRAIN_X.N_INS,
            tfm=tfm,
            is_train=True,
            dataset_wrapper=TwoViews,
        )
