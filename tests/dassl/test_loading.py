"""Workers that live on, images that cannot be read, JPEGs decoded at a fraction of their size."""

import json
import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms as T

import train
from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import Datum, build_dataset
from dassl.data.transforms import build_transform
from dassl.utils import UserError, read_image, set_random_seed


class OwnWrapper(DatasetWrapper):
    """As other repositories write them: an own __getitem__ that takes an integer."""

    def __getitem__(self, index):
        return {"index": int(index), "img": self.transform(Image.new("RGB", (8, 8)))}


def process_id(image):
    return torch.tensor(os.getpid())


def test_workers_live_on_and_draw_what_new_ones_would(make_cfg):
    # cutout draws from NumPy, the translation from Python's random, the flip from torch
    transforms = ["random_translation", "random_flip", "cutout", "normalize"]
    cfg = make_cfg({"DATALOADER.NUM_WORKERS": 2, "INPUT.TRANSFORMS": transforms})
    source, transform = build_dataset(cfg).train_x, build_transform(cfg)
    ours = build_data_loader(cfg, "RandomSampler", source, 10, tfm=transform)
    plain = DatasetWrapper(cfg, source, transform=transform, is_train=True)
    new_workers = DataLoader(plain, batch_size=10, sampler=RandomSampler(source), num_workers=2, drop_last=True)
    images = {}
    for name, loader in {"ours": ours, "new workers": new_workers}.items():
        set_random_seed(3)
        images[name] = torch.stack([torch.cat([batch["img"] for batch in loader]) for _ in range(3)])
        images[name + ", state"] = torch.get_rng_state()
    assert torch.equal(images["ours"], images["new workers"])
    assert torch.equal(images["ours, state"], images["new workers, state"])
    assert not torch.equal(images["ours"][1], images["ours"][2])


@pytest.mark.parametrize("wrapper, lives_on", [(None, True), (OwnWrapper, False)])
def test_which_workers_live_on(make_cfg, wrapper, lives_on):
    cfg = make_cfg({"DATALOADER.NUM_WORKERS": 2})
    loader = build_data_loader(
        cfg, data_source=build_dataset(cfg).train_x, batch_size=9, tfm=process_id, dataset_wrapper=wrapper
    )
    first, second = ({int(i) for batch in loader for i in batch["img"]} for _ in range(2))
    assert len(first) == 2 and (first == second) == lives_on


@pytest.fixture
def damaged(make_cfg, tmp_path):
    """Function (labels) -> training items of which the first two images of each of the labels are broken."""
    source = build_dataset(make_cfg()).train_x

    def damage(labels, count=2):
        broken = tmp_path / "broken.png"
        broken.write_text("no image")
        seen, items = Counter(), []
        for item in source:
            seen[item.label] += 1
            bad = item.label in labels and seen[item.label] <= count
            items.append(Datum(str(broken) if bad else item.impath, item.label, item.domain, item.classname))
        return items

    return damage


@pytest.mark.parametrize("workers", [0, 2])
def test_in_training_another_image_of_the_class_stands_in(make_cfg, damaged, workers, capfd):
    cfg = make_cfg({"DATALOADER.ON_ERROR": "skip", "DATALOADER.NUM_WORKERS": workers})
    source = damaged([1, 2])
    loader = build_data_loader(cfg, "SequentialSampler", source, 9, tfm=T.ToTensor())
    for _ in range(2):
        batches = list(loader)
        assert [batch["label"].tolist() for batch in batches] == [[label] * 9 for label in range(4)]
        assert batches[1]["index"].tolist() == [11, 11, *range(11, 18)]  # 9 and 10 cannot be read
    assert loader.dataset.unreadable.nonzero().flatten().tolist() == [9, 10, 18, 19]
    assert "skipped: cannot read image" in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_test_it_is_left_out_even_if_a_batch_ends_empty(make_cfg, damaged, workers):
    cfg = make_cfg({"DATALOADER.ON_ERROR": "skip", "DATALOADER.NUM_WORKERS": workers})
    loader = build_data_loader(cfg, data_source=damaged([2]), batch_size=2, tfm=T.ToTensor(), is_train=False)
    indices = [i for batch in loader for i in batch["index"].tolist()]
    assert indices == [i for i in range(36) if i not in (18, 19)]


def test_a_class_without_readable_images_and_a_wrong_choice_are_refused(make_cfg, damaged):
    cfg = make_cfg({"DATALOADER.ON_ERROR": "skip"})
    with pytest.raises(UserError, match='no training image of class "green" can be read'):
        list(build_data_loader(cfg, data_source=damaged([1], count=9), tfm=T.ToTensor()))
    with pytest.raises(ValueError, match='ON_ERROR must be load, stop or skip, got "ignore"'):
        DataManager(make_cfg({"DATALOADER.ON_ERROR": "ignore"}))


def test_a_run_counts_what_it_skipped(tmp_path, capsys):
    for label, name in enumerate(("cat", "dog")):
        for split, count in {"train": 3, "test": 4}.items():
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (64, 64), (200 * label, 20 * i, 0)).save(folder / f"{i}.png")
    bad = tmp_path / "mine" / "test" / "dog" / "3.png"
    bad.write_bytes(b"")
    out = tmp_path / "out"
    command = f"--trainer ZeroshotCLIP --root {tmp_path}/mine --output-dir {out} --eval-only"
    files = "--dataset-config-file configs/datasets/image_folder.yaml --config-file configs/backbones/small.yaml"
    assert train.main(f"{command} {files} DATALOADER.ON_ERROR skip".split()) == 0
    assert "* total: 7" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["skipped_images"]["test"] == [str(bad)]


def test_large_jpegs_are_decoded_at_a_fraction_that_is_large_enough(make_cfg, tmp_path):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((330, 250), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=95)
    picture.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.jpg").size == (330, 250)
    assert read_image(tmp_path / "a.jpg", at_least=(60, 60)).size == (83, 63)
    assert read_image(tmp_path / "a.jpg", at_least=(126, 126)).size == (330, 250)
    assert read_image(tmp_path / "a.png", at_least=(60, 60)).size == (330, 250)

    item = Datum(str(tmp_path / "a.jpg"))
    images = []
    for reduced in (False, True):
        cfg = make_cfg({"INPUT.SIZE": (32, 32), "DATALOADER.REDUCED_JPEG": reduced})
        images.append(DatasetWrapper(cfg, [item], transform=build_transform(cfg, is_train=False))[0]["img"])
    assert 0 < (images[0] - images[1]).abs().mean() < 0.05  # of a standard deviation
    # the smallest crop in training is 8 % of the area: of this image no fraction would do
    assert DatasetWrapper(cfg, [item], is_train=True).smallest_size() == (131, 131)
