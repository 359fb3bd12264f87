"""Data sets, few-shot draws, transforms, samplers and loaders."""

import pickle
import random
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import COLOURS, SIZES
from PIL import Image
from torchvision import transforms as T

from dassl.config import get_cfg_default, merge_pairs
from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DatasetBase, Datum, build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.data.transforms.transforms import Cutout, GaussianNoise, InstanceNormalization, RandomTranslation
from dassl.utils import UserError, set_random_seed


def items(counts):
    """Items without files: `counts` is {label: number}, in this order."""
    return [
        SimpleNamespace(impath=f"{label}_{i}", label=label, classname=f"c{label}")
        for label, count in counts.items()
        for i in range(count)
    ]


def test_golden_few_shot_draw():
    source = items({2: 10, 0: 10, 1: 10})
    set_random_seed(1)
    drawn = DatasetBase(train_x=[]).generate_fewshot_dataset(source, num_shots=3)
    assert [item.impath for item in drawn] == "2_2 2_1 2_4 0_1 0_7 0_8 1_7 1_6 1_3".split()


def test_few_shot_draw_of_small_classes_and_several_sources():
    big, small = items({0: 5, 1: 5}), items({0: 2, 1: 5})
    dataset = DatasetBase(train_x=[])
    assert dataset.generate_fewshot_dataset(big) is big
    assert dataset.generate_fewshot_dataset(big, small) == (big, small)
    first, second = dataset.generate_fewshot_dataset(big, small, num_shots=3)
    assert Counter(item.label for item in first) == {0: 3, 1: 3}
    assert second[:2] == small[:2] and len(second) == 5
    repeated = dataset.generate_fewshot_dataset(small, num_shots=3, repeat=True)
    assert Counter(item.label for item in repeated) == {0: 3, 1: 3}


def test_few_shot_takes_train_then_up_to_four_of_val(make_cfg):
    cfg = make_cfg({"DATASET.NUM_SHOTS": 6})
    dataset = build_dataset(cfg)
    after = random.getstate()
    assert Counter(item.label for item in dataset.train_x) == dict.fromkeys(range(4), 6)
    assert Counter(item.label for item in dataset.val) == dict.fromkeys(range(4), 4)
    assert len(dataset.test) == 4 * SIZES["test"]
    set_random_seed(cfg.SEED)
    for shots, size in ((6, SIZES["train"]), (4, SIZES["val"])):
        for _ in range(4):
            random.sample(range(size), shots)
    assert random.getstate() == after


def test_more_shots_than_images_is_refused(make_cfg):
    dataset = DatasetBase(train_x=[])
    cfg = make_cfg({"DATASET.NUM_SHOTS": 4, "DATASET.FEW_IMAGES": "stop"})
    with pytest.raises(UserError, match='NUM_SHOTS is 4, but class "c1" has only 3 training images.* at most 3'):
        dataset.few_shot(cfg, items({0: 5, 1: 3}))


def test_base_and_new_classes(make_cfg):
    base = build_dataset(make_cfg({"DATASET.SUBSAMPLE_CLASSES": "base"}))
    new = build_dataset(make_cfg({"DATASET.SUBSAMPLE_CLASSES": "new"}))
    names = list(COLOURS)
    assert (base.classnames, new.classnames) == (names[:2], names[2:])
    assert new.lab2cname == {0: names[2], 1: names[3]} and new.num_classes == 2
    assert {item.label for item in new.train_x + new.val + new.test} == {0, 1}
    odd = [Datum(__file__, label=label, classname=str(label)) for label in (7, 3, 5)]
    (kept,) = DatasetBase.subsample_classes(odd, subsample="base")
    assert [(item.label, item.classname) for item in kept] == [(0, "3"), (1, "5")]
    with pytest.raises(UserError, match="all, base or new"):
        build_dataset(make_cfg({"DATASET.SUBSAMPLE_CLASSES": "old"}))


def test_datum_pickles_by_the_path_other_repositories_know():
    datum = Datum(__file__, label=3, domain=1, classname="x")
    assert Datum.__module__ == "dassl.data.datasets.base_dataset"
    assert pickle.loads(pickle.dumps(datum)).__dict__ == {
        "_impath": __file__,
        "_label": 3,
        "_domain": 1,
        "_classname": "x",
    }
    again = pickle.loads(pickle.dumps(datum))
    assert (again.impath, again.label, again.domain, again.classname) == (__file__, 3, 1, "x")
    for name in ("impath", "label", "domain", "classname"):
        with pytest.raises(AttributeError):
            setattr(datum, name, "y")


def test_a_missing_image_is_reported_when_the_data_set_is_made(tmp_path):
    here = Datum(__file__)
    assert DatasetBase(train_x=[here], test=[here]).num_classes == 1
    for missing in (f"{__file__}.png", str(tmp_path / "no folder" / "a.png"), "nowhere.png"):
        with pytest.raises(FileNotFoundError, match=f"no image at {re.escape(missing)}"):
            DatasetBase(train_x=[here], val=[here, Datum(missing)])


def test_unknown_data_set_names_the_nearest(make_cfg):
    with pytest.raises(UserError, match='unknown data set .*"Square" .do you mean Squares'):
        build_dataset(make_cfg({"DATASET.NAME": "Square"}))


def input_cfg(**values):
    cfg = get_cfg_default()
    merge_pairs(cfg, {"INPUT.SIZE": (24, 16), "INPUT.INTERPOLATION": "bicubic"})
    merge_pairs(cfg, {f"INPUT.{key}": value for key, value in values.items()})
    return cfg


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def names(transform):
    return [type(step).__name__ for step in transform.transforms]


def test_test_pipeline_is_torchvisions():
    cfg = input_cfg(TRANSFORMS=["random_resized_crop", "random_flip", "normalize"])
    reference = T.Compose(
        [
            T.Resize(24, T.InterpolationMode.BICUBIC),
            T.CenterCrop((24, 16)),
            T.ToTensor(),
            T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD),
        ]
    )
    assert torch.equal(build_transform(cfg, is_train=False)(picture()), reference(picture()))


def test_train_pipeline_is_torchvisions_draw_for_draw():
    cfg = input_cfg(TRANSFORMS=["normalize", "random_flip", "random_resized_crop"])
    reference = T.Compose(
        [
            T.RandomResizedCrop((24, 16), interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD),
        ]
    )
    transform = build_transform(cfg)
    set_random_seed(0)
    expected = [reference(picture()) for _ in range(3)]
    set_random_seed(0)
    assert all(torch.equal(transform(picture()), image) for image in expected)


def test_train_order_does_not_depend_on_the_order_given():
    everything = (
        "instance_norm gaussian_noise normalize cutout gaussian_blur randomgrayscale colorjitter randaugment "
        "svhn_policy imagenet_policy random_flip random_crop random_translation"
    )
    transform = build_transform(input_cfg(), choices=everything.split())
    assert names(transform) == [
        "RandomTranslation",
        "RandomCrop",
        "RandomHorizontalFlip",
        "AutoAugment",
        "AutoAugment",
        "RandAugment",
        "ColorJitter",
        "RandomGrayscale",
        "RandomApply",
        "ToTensor",
        "Cutout",
        "Normalize",
        "GaussianNoise",
        "InstanceNormalization",
    ]
    assert names(build_transform(input_cfg(), choices=["center_crop"])) == ["Resize", "ToTensor"]
    for is_train in (True, False):
        assert build_transform(input_cfg(), is_train, everything.split())(picture()).shape == (3, 24, 16)


def test_unknown_transform_lists_what_is_allowed():
    with pytest.raises(UserError, match='"random_flips".*do you mean random_flip.*available: random_flip, '):
        build_transform(input_cfg(TRANSFORMS=["random_flips"]))
    with pytest.raises(UserError, match='"cubic".*available: bilinear, bicubic, nearest'):
        build_transform(input_cfg(INTERPOLATION="cubic"))
    with pytest.raises(UserError, match="semi-supervised learning only"):
        build_transform(input_cfg(TRANSFORMS=["randaugment2"]))
    assert build_transform(input_cfg(NO_TRANSFORM=True)) is None


def test_cutout_and_instance_normalization():
    image = torch.rand(3, 12, 12) + 0.1
    set_random_seed(0)
    for _ in range(20):
        holes = (Cutout(1, 4)(image) == 0).all(dim=0)
        rows, columns = holes.any(dim=1).sum(), holes.any(dim=0).sum()
        assert 2 <= rows <= 4 and 2 <= columns <= 4 and holes.sum() == rows * columns
    assert image.min() > 0  # the input is left as it was
    normalized = InstanceNormalization()(image)
    assert torch.allclose(normalized.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normalized.std(dim=(1, 2)), torch.ones(3), atol=1e-4)


def test_wrapper_items(make_cfg):
    cfg = make_cfg({"DATALOADER.RETURN_IMG0": True, "DATALOADER.K_TRANSFORMS": 2})
    source = build_dataset(cfg).train_x
    to_tensor = build_transform(cfg, is_train=False)
    item = DatasetWrapper(cfg, source, transform=to_tensor, is_train=True)[5]
    assert (item["label"], item["domain"], item["index"]) == (0, 0, 5) and item["impath"] == source[5].impath
    assert len(item["img"]) == 2 and item["img"][0].shape == item["img0"].shape == (3, 8, 8)
    assert DatasetWrapper(cfg, source, transform=to_tensor)[5]["img"].shape == (3, 8, 8)
    pair = DatasetWrapper(cfg, source, transform=[to_tensor, T.ToTensor()])[0]
    assert pair["img"].shape == (3, 8, 8) and pair["img2"].shape == (3, 20, 24)
    assert isinstance(DatasetWrapper(cfg, source)[0]["img"], Image.Image)
    with pytest.raises(ValueError, match="K_TRANSFORMS"):
        DatasetWrapper(cfg, source, is_train=True)


def test_data_manager(make_cfg, capsys):
    cfg = make_cfg({"DATALOADER.TRAIN_X.BATCH_SIZE": 10, "DATALOADER.TEST.BATCH_SIZE": 10})
    dm = DataManager(cfg)
    assert len(dm.train_loader_x) == 3  # the last 6 of 36 are dropped
    assert sum(len(batch["label"]) for batch in dm.test_loader) == 24
    assert dm.num_classes == 4 and dm.dataset.classnames == list(COLOURS)
    assert "# train_x  36" in capsys.readouterr().out
    alone = build_data_loader(cfg, "RandomSampler", dm.dataset.train_x[:3], 10, tfm=T.ToTensor())
    assert len(alone) == 1  # but not an only batch
    with pytest.raises(UserError, match="has no training images"):
        build_data_loader(cfg, data_source=[])


def test_loader_draws_two_seeds_an_epoch(make_cfg):
    loader = DataManager(make_cfg(), custom_tfm_train=T.ToTensor(), custom_tfm_test=T.ToTensor()).train_loader_x
    set_random_seed(0)
    list(loader)
    after = torch.get_rng_state()
    set_random_seed(0)
    for _ in range(2):
        torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named_by_the_loader(make_cfg, tmp_path, workers):
    (tmp_path / "broken.png").write_text("no image")
    source = [Datum(str(tmp_path / "broken.png"))]
    cfg = make_cfg({"DATALOADER.NUM_WORKERS": workers})
    with pytest.raises(UserError) as error:
        list(build_data_loader(cfg, data_source=source, tfm=T.ToTensor()))
    assert str(error.value).startswith(f"cannot read image {tmp_path}/broken.png")


def test_samplers():
    source = items({0: 3, 1: 2})
    assert list(build_sampler("SequentialSampler", data_source=source)) == [0, 1, 2, 3, 4]
    assert sorted(build_sampler("RandomSampler", data_source=source)) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="unknown sampler.*do you mean RandomSampler"):
        build_sampler("RandomSample", data_source=source)


def test_random_translation_shows_a_window_of_the_enlarged_picture():
    transform = RandomTranslation((24, 16), p=1)
    assert RandomTranslation((24, 16), p=0)(picture()).size == (16, 24)
    big = T.ToTensor()(picture().resize((18, 27), Image.Resampling.BILINEAR))
    windows = [big[:, y : y + 24, x : x + 16] for y in range(4) for x in range(3)]
    for _ in range(5):
        image = T.ToTensor()(transform(picture()))
        assert any(torch.equal(image, window) for window in windows)


def test_gaussian_noise_has_its_moments_half_of_the_time():
    set_random_seed(0)
    differences = [GaussianNoise(0.1, 0.2)(torch.zeros(3, 50, 50)) for _ in range(200)]
    noisy = torch.stack([d for d in differences if d.any()])
    assert 75 < len(noisy) < 125
    assert noisy.mean().item() == pytest.approx(0.1, abs=0.01) and noisy.std().item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("counts", [{0: 8, 1: 8, 2: 8}, {0: 3, 1: 17, 2: 9, 5: 4}])
def test_class_sampler_gives_full_batches_of_different_classes(counts):
    source = items(counts)
    sampler = build_sampler("RandomClassSampler", None, source, batch_size=8, n_ins=4)
    for _ in range(20):
        drawn = [source[index] for index in sampler]
        assert len(drawn) == len(sampler) > 0
        for start in range(0, len(drawn), 8):
            assert sorted(Counter(item.label for item in drawn[start : start + 8]).values()) == [4, 4]
    if counts[0] == 8:
        assert len({item.impath for item in drawn}) >= 20  # of 24; the rest is chance


def test_bad_settings_of_samplers_and_removed_samplers_are_refused():
    for batch_size, n_ins in ((4, 8), (32, 4)):
        with pytest.raises(UserError, match="but there are 2"):
            build_sampler("RandomClassSampler", None, items({0: 8, 1: 8}), batch_size=batch_size, n_ins=n_ins)
    with pytest.raises(UserError, match="domain generalisation only"):
        build_sampler("RandomDomainSampler", None, items({0: 8}))
