"""Features of test images kept for other runs: the same results, images read once, damage and change noticed."""

import os
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import train
from dassl.data import data_manager
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from scripts.methods import read_methods
from scripts.run import make_runs
from sotglp import backbones
from sotglp.backbones import SMALL
from sotglp.features import EncodedImages
from sotglp.interface import STREAMS

COMMON = [
    *("--dataset-config-file", "configs/datasets/fashion_mnist.yaml", "--config-file", "configs/backbones/small.yaml"),
    *("--seed", "1", "TEST.SPLIT", "val", "DATASET.NUM_SHOTS", "2"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def build(root, tmp_path):
    """Function (trainer's name, KEY VALUE pairs) -> trainer with a cache in tmp_path / "features"."""

    def make(name="CoOp", *pairs):
        place = ["--root", str(root), "--output-dir", str(tmp_path / name), "--trainer", name]
        cache = ["INPUT.FEATURE_CACHE", str(tmp_path / "features")]
        set_random_seed(1)
        return build_trainer(train.setup_cfg(train.parse_args([*place, *COMMON, *cache, *pairs])))

    return make


@pytest.fixture
def reads(monkeypatch):
    """Paths of the images that were read."""
    paths, read_image = [], data_manager.read_image
    monkeypatch.setattr(
        data_manager,
        "read_image",
        lambda path, *size, **how: paths.append(os.path.abspath(path)) or read_image(path, *size, **how),
    )
    return paths


def scores(trainer):
    """Scores of all validation images, and the accuracy of the trainer's own test."""
    trainer.set_model_mode("eval")
    with torch.no_grad():
        trainer.text = trainer.model.encode_text()
        batches = list(trainer.batches_to_evaluate("val"))
        parts = [trainer.model_inference(trainer.parse_batch_test(batch)[0]) for batch in batches]
    return torch.cat(parts), trainer.test()


@pytest.mark.parametrize("name", ["CoOp", "SOTGLP", "CoCoOp", "KgCoOp", "PLOT", "GalLoP"])
def test_the_same_scores_from_features_as_from_images(build, reads, name):
    plain, accuracy = scores(build(name, "INPUT.FEATURE_CACHE", ""))
    reads.clear()
    for _ in range(2):  # made, and found
        kept, kept_accuracy = scores(build(name))
        torch.testing.assert_close(kept, plain, rtol=1e-5, atol=1e-5)
        assert kept_accuracy == accuracy
    trainer = build(name)
    images = sorted(os.path.abspath(item.impath) for item in trainer.dm.dataset.val)
    assert sorted(reads) == images, "each image is read once, by the first of all these tests"


@pytest.mark.slow
def test_methods_seeds_and_shots_share_the_features_of_a_stream(build, reads, tmp_path):
    for name, pairs in [
        ("SOTGLP", ["DATASET.NUM_SHOTS", "2", "SEED", "2"]),
        ("CoOp", ["TRAINER.COOP.N_CTX", "4"]),
        ("SOTGLP", ["TRAINER.SOTGLP.TOPK", "3"]),
        ("ZeroshotCLIP", []),
    ]:
        build(name, *pairs).test()
    assert len(reads) == len(set(reads)) == 20
    (folder,) = (path.parent for path in (tmp_path / "features").rglob("index.json"))
    assert sorted(path.name for path in folder.iterdir()) == ["class", "index.json", "lock", "vv"]
    build("LoCoOp").test()
    assert len(reads) == 40 and (folder / "value").is_dir(), "a stream that no run had spoken of is another pass"


def test_each_image_is_encoded_once_for_the_streams_of_all_methods(build, reads):
    streams = make_runs(read_methods().values(), ["fashion_mnist"], ["2"])[0].streams
    assert sorted(streams) == sorted(STREAMS)
    for name in ("CoOp", "PLOT", "SOTGLP", "LoCoOp"):
        kept, _ = scores(build(name, "INPUT.FEATURE_STREAMS", str(streams)))
        assert len(reads) == 20
        plain, _ = scores(build(name, "INPUT.FEATURE_CACHE", ""))
        torch.testing.assert_close(kept, plain, rtol=1e-5, atol=1e-5)
        del reads[20:]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["methods", "ablation"])
def test_methods_declare_the_stream_they_read(root, file):
    for run in make_runs(
        read_methods(f"configs/comparisons/{file}.yaml").values(), ["fashion_mnist"], ["2"], seeds=[1]
    ):
        model = build_trainer(train.setup_cfg(train.parse_args([*run.arguments, "DATASET.ROOT", str(root)]))).model
        assert (model.local or "") == run.method.patches, run.method.name


def test_tests_after_each_epoch_look_up_the_features_once(build, monkeypatch):
    keys, key = [], EncodedImages.key
    monkeypatch.setattr(EncodedImages, "key", lambda *of: keys.append(of) or key(*of))
    trainer = build()
    assert trainer.test("val") == trainer.test("val") and len(keys) == 1
    trainer.model.local = "value"  # another stream is other files
    trainer.test("val")
    assert len(keys) == 2


@pytest.mark.parametrize("change", ["pixels", "file", "weights"])
def test_changed_images_or_weights_are_encoded_again(build, reads, tmp_path, change, monkeypatch):
    build().test()
    reads.clear()
    if change == "file":
        path = Path(build().dm.dataset.val[3].impath)
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    pairs = ["INPUT.INTERPOLATION", "nearest"] if change == "pixels" else []
    if change == "weights":
        weights = load_file(SMALL)
        weights["visual.class_embedding"][0] += 1e-3
        save_file(weights, tmp_path / "other.safetensors")
        pairs = ["MODEL.BACKBONE.NAME", str(tmp_path / "other.safetensors")]
    build("CoOp", *pairs).test()
    assert len(reads) == 20 and len(list((tmp_path / "features").rglob("index.json"))) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "fewer images"])
def test_a_damaged_file_is_reported_and_made_again(build, tmp_path, damage, capsys):
    expected, _ = scores(build())
    path = next((tmp_path / "features").rglob("class/*.safetensors"))
    whole = path.read_bytes()
    if damage == "fewer images":
        save_file({name: values[:-1] for name, values in load_file(path).items()}, path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    torch.testing.assert_close(scores(build())[0], expected)
    assert path.read_bytes() == whole
    assert f"{path} is damaged" in capsys.readouterr().out


def test_an_interrupted_encoding_leaves_no_file_that_looks_whole(build, tmp_path, monkeypatch):
    trainer = build("CoOp", "DATALOADER.TEST.BATCH_SIZE", "5")
    tower, calls = trainer.model.clip.visual, []
    encode_images = tower.encode_images

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode_images(*arguments)

    monkeypatch.setattr(tower, "encode_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.test()
    assert [path.name for path in (tmp_path / "features").rglob("*.*")] == ["index.json"]
    plain, _ = scores(build("CoOp", "INPUT.FEATURE_CACHE", ""))
    torch.testing.assert_close(scores(build())[0], plain, rtol=1e-5, atol=1e-5)


def test_without_room_or_permission_images_are_read_and_a_warning_is_printed(build, tmp_path, monkeypatch, capsys):
    plain, _ = scores(build("CoOp", "INPUT.FEATURE_CACHE", ""))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    torch.testing.assert_close(scores(build())[0], plain)
    assert "features are not kept in" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "features").rglob("*.*")] == ["index.json"]
    (tmp_path / "file").write_text("")
    torch.testing.assert_close(scores(build("CoOp", "INPUT.FEATURE_CACHE", str(tmp_path / "file")))[0], plain)
    assert "features are not kept in" in capsys.readouterr().err


def test_images_that_may_be_left_out_are_not_kept(build, tmp_path):
    build("CoOp", "DATALOADER.ON_ERROR", "skip").test()
    assert not (tmp_path / "features").exists()


def test_of_two_runs_at_once_one_encodes_and_the_other_waits(build):
    trainers, encoded, barrier = [build(), build()], [0, 0], threading.Barrier(2)

    def test(i):
        tower = trainers[i].model.clip.visual
        encode_images = tower.encode_images

        def counted(images, streams):
            encoded[i] += len(images)
            return encode_images(images, streams)

        tower.encode_images = counted
        barrier.wait()
        trainers[i].test()

    threads = [threading.Thread(target=test, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(encoded) == [0, 20]


AUGMENTED = ["INPUT.TRANSFORMS", "('random_resized_crop', 'random_flip', 'normalize')", "OPTIM.MAX_EPOCH", "2"]


@pytest.mark.slow
def test_training_on_kept_views(build, reads, monkeypatch):
    """Each view is what the tower makes of some augmentation; a run with the same settings finds them."""
    trainer = build("SOTGLP", "INPUT.CACHE_VIEWS", "3", *AUGMENTED)
    plain = trainer.train_loader_x
    tower, encoded = trainer.model.clip.visual, []
    encode_images = tower.encode_images
    monkeypatch.setattr(
        tower, "encode_images", lambda images, streams: encoded.append(images) or encode_images(images, streams)
    )
    states = random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist()
    trainer.before_train()
    assert states == (random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist())
    views, images = trainer.train_loader_x, torch.cat(encoded)
    n = len(trainer.dm.dataset.train_x)
    assert len(reads) == len(images) == 3 * n and len(views) == len(plain)
    assert len({view.numpy().tobytes() for view in images}) > 2 * n, "views differ"
    class_tokens, patches = trainer.model.features(images)
    batch = views.batch(torch.arange(3 * n).numpy())
    torch.testing.assert_close(batch["features"], (class_tokens, patches), rtol=1e-4, atol=1e-5)
    assert batch["label"].tolist() == 3 * [item.label for item in trainer.dm.dataset.train_x]

    drawn = [batch["features"][0] for _ in range(4) for batch in views]
    assert len({row.numpy().tobytes() for rows in drawn for row in rows}) > n, "other views in other epochs"
    reads.clear()
    build("SOTGLP", "INPUT.CACHE_VIEWS", "3", *AUGMENTED).train()
    build("SOTGLP", "INPUT.CACHE_VIEWS", "3", *AUGMENTED).train()
    assert len(reads) == len(set(reads)) == 20, "only test images, and once"
    build("SOTGLP", "INPUT.CACHE_VIEWS", "3", "SEED", "2", *AUGMENTED).before_train()
    assert len(reads) == 20 + 3 * n, "another seed has other views"


def test_a_step_on_a_kept_view_is_one_on_the_image(build):
    """Without augmentation a view is the image: the same batch gives the same loss and gradients."""
    gradients = []
    for pairs in (["INPUT.FEATURE_CACHE", ""], ["INPUT.CACHE_VIEWS", "1"]):
        options = ["INPUT.TRANSFORMS", "('normalize',)", "DATALOADER.TRAIN_X.SAMPLER", "SequentialSampler", *pairs]
        trainer = build("SOTGLP", *options)
        trainer.before_train()
        torch.manual_seed(3)
        trainer.batch_idx, trainer.num_batches = 0, 2
        batch = next(iter(trainer.train_loader_x))
        assert ("features" in batch) == ("INPUT.CACHE_VIEWS" in pairs)
        torch.manual_seed(4)
        loss = trainer.forward_backward(batch)["loss"]
        gradients.append([torch.tensor(loss), *(parameter.grad for parameter in trainer.model.learned.parameters())])
    for image, view in zip(*gradients, strict=True):
        torch.testing.assert_close(view, image, rtol=0, atol=1e-5 * image.abs().max().item())


@pytest.mark.parametrize("name", ["CoOp", "SOTGLP"])
def test_training_without_augmentation_reads_each_image_once_and_learns_the_same(name, build, reads, tmp_path):
    """With and without a folder for features: the same batches, random numbers and weights."""
    learned = []
    for folder in ("", str(tmp_path / "features")):
        pairs = [
            "INPUT.TRANSFORMS",
            "('normalize',)",
            "OPTIM.MAX_EPOCH",
            "3",
            "INPUT.FEATURE_CACHE",
            folder,
            "TEST.NO_TEST",
            "True",
        ]
        trainer = build(name, *pairs, "OUTPUT_DIR", str(tmp_path / f"{name}{bool(folder)}"))
        reads.clear()
        trainer.train()
        learned.append([*trainer.model.learned.parameters(), torch.get_rng_state()])
        train_images = {os.path.abspath(item.impath) for item in trainer.dm.dataset.train_x}
        of_training = [path for path in reads if path in train_images]
        assert len(of_training) == len(train_images) * (1 if folder else 3)
    for image, kept in zip(*learned, strict=True):
        torch.testing.assert_close(kept, image, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ZeroshotCLIP", "CoOp", "SOTGLP", "TCP", "TipAdapterF"])
def test_a_run_on_kept_features_never_loads_the_image_tower(name, build, monkeypatch):
    pairs = ["INPUT.TRANSFORMS", "('normalize',)", "OPTIM.MAX_EPOCH", "2"]
    pairs += ["TRAINER.TCP.BLOCK", "1"] * (name == "TCP")
    first = build(name, *pairs)
    first.train()
    monkeypatch.setattr(backbones, "image_tower", lambda name: pytest.fail("the image tower is loaded"))
    trainer = build(name, *pairs)
    trainer.train()
    assert not list(trainer.model.clip.visual.parameters())
    assert trainer.evaluator.results == first.evaluator.results


def test_features_of_a_tower_that_a_method_may_have_changed_are_not_kept(build, tmp_path):
    trainer = build()
    with torch.no_grad():
        trainer.model.clip.visual.transformer.resblocks[0].mlp.c_fc.bias += 1
    trainer.test()
    assert not (tmp_path / "features").exists()


def test_augmented_training_reads_images_at_each_step(build):
    for pairs in (AUGMENTED, ["INPUT.TRANSFORMS", "('normalize',)", "DATALOADER.K_TRANSFORMS", "2"]):
        trainer = build("CoOp", *pairs)
        loader = trainer.train_loader_x
        trainer.before_train()
        assert trainer.train_loader_x is loader


def test_views_that_cannot_be_kept(build, capsys):
    with pytest.raises(ValueError, match="CACHE_VIEWS 2 needs a folder"):
        build("CoOp", "INPUT.CACHE_VIEWS", "2", "INPUT.FEATURE_CACHE", "").before_train()
    trainer = build("CoOp", "INPUT.CACHE_VIEWS", "2", "DATALOADER.ON_ERROR", "skip")
    loader = trainer.train_loader_x
    trainer.before_train()
    assert trainer.train_loader_x is loader and "INPUT.CACHE_VIEWS is not used" in capsys.readouterr().err


@pytest.mark.slow
def test_methods_that_read_the_images_themselves_train_beside_kept_views(build):
    build("TipAdapterF", "INPUT.CACHE_VIEWS", "2", *AUGMENTED).train()


def test_training_goes_on_without_room_for_views(build, monkeypatch, capsys):
    trainer = build("CoOp", "INPUT.CACHE_VIEWS", "2")
    loader = trainer.train_loader_x
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    trainer.before_train()
    assert trainer.train_loader_x is loader and "INPUT.CACHE_VIEWS is not used" in capsys.readouterr().err


def test_impossible_views_are_one_line(root, tmp_path, capsys):
    place = ["--root", str(root), "--output-dir", str(tmp_path), "--trainer", "CoOp"]
    assert train.main([*place, *COMMON, "INPUT.CACHE_VIEWS", "2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: INPUT.CACHE_VIEWS 2 needs") and len(error.splitlines()) == 1
