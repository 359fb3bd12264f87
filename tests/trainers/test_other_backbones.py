"""Methods on backbones that are not of OpenAI's architecture."""

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, LOCAL, SIZE, small  # noqa: F401 (a fixture)
from loops import TARGETS, build, weights  # noqa: F401 (fixtures)

from scripts import prompt_figures
from sotglp import hub
from sotglp.interface import STREAMS
from sotglp.toolbox.predictor import Predictor

INSIDE = ["MaPLe", "PromptSRC", "PLOTPP", "CLIPLoRA", "TwoSFS", "TCP"]
ON_IMAGES = ["ZeroshotCLIP", "CoCoOp", "KgCoOp", "ProGrad", "LinearProbe", "TipAdapterF", "GDA", "CLAP", "LPPP"]
ON_PATCHES = ["LoCoOp", "GalLoP", "PLOT"]


@pytest.fixture
def build_on(build, small, tmp_path):  # noqa: F811
    """Function (trainer, family, its settings) -> (trainer, images), with features kept in a folder."""

    def make(name, family, **settings):
        backbone = small(family)[0]
        source = hub.get_pretrained_cfg(*backbone.split(":"))
        values = {"MODEL.BACKBONE.NAME": backbone, "OPTIM.MAX_EPOCH": 1}
        values |= {"INPUT.PIXEL_MEAN": list(source["mean"]), "INPUT.PIXEL_STD": list(source["std"])}
        values |= {"INPUT.FEATURE_CACHE": str(tmp_path / "features"), "INPUT.FEATURE_STREAMS": ["vv"]}
        return build(name, values, **settings)

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_reaches_all_that_is_learned(family, build_on):
    for name in ["CoOp", "SOTGLP"] if family in LOCAL else ["CoOp"]:
        trainer, images = build_on(name, family)
        trainer.batch_idx, trainer.num_batches = 0, 2
        summary = trainer.forward_backward({"img": images, "label": TARGETS, "domain": TARGETS})
        assert torch.tensor(summary["loss"]).isfinite()
        for parameter in trainer.model.learned.parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0
        assert all(parameter.grad is None for parameter in trainer.model.clip.parameters())


@pytest.mark.parametrize(
    "name, family", [*[(name, "ResNet") for name in ON_IMAGES], *[(name, "SigLIP 2") for name in ON_PATCHES]]
)
def test_other_methods_train_and_test(name, family, build_on):
    trainer, _ = build_on(name, family, moved=False)
    trainer.train()
    assert trainer.evaluator._total == 24 and 0 <= trainer.test() <= 100


@pytest.mark.parametrize("name", INSIDE)
def test_methods_inside_the_towers_are_refused(name, build_on):
    with pytest.raises(ValueError, match=f"{name} reaches inside the towers.*ViT-B-16-SigLIP2:webli is of another"):
        build_on(name, "SigLIP 2")


@pytest.mark.parametrize("name", ["SOTGLP", *ON_PATCHES])
def test_methods_on_patches_are_refused_without_patches(name, build_on):
    with pytest.raises(ValueError, match="no patch tokens.*a method of whole images, such as CoOp"):
        build_on(name, "MobileCLIP 2")


@pytest.mark.parametrize("family", LOCAL)
def test_one_bright_patch_is_seen_at_its_place(family, build_on, tmp_path):
    """In each stream, in the support that predict returns, and in what visualize draws."""
    trainer, _ = build_on("SOTGLP", family, TOPK=1, PROJECTION=False)
    model, row, column = trainer.model, 1, 2
    dark = torch.zeros(1, 3, SIZE, SIZE)
    bright = dark.clone()
    bright[:, :, 8 * row : 8 * (row + 1), 8 * column : 8 * (column + 1)] = 3
    with torch.no_grad():
        for stream in STREAMS:
            change = model.clip.visual(bright, stream)[1] - model.clip.visual(dark, stream)[1]
            assert change[0].norm(dim=-1).argmax() == 4 * row + column
        features = [model.to_joint(model.features(image)[1])[0] for image in (bright, dark)]
        change = features[0] - features[1]
        t_global, t_local = model.encode_text()
        looked_for = F.normalize(change[change.norm(dim=-1).argmax()], dim=-1)
        model.encode_text = lambda: (t_global, looked_for.expand_as(t_local))
    predictor = Predictor(tmp_path, trainer, None, True)
    assert predictor.predict(bright[0], support=True).support.tolist() == [[4 * row + column]]
    seen = prompt_figures.look(predictor, bright)
    assert seen.cosines[0, :, 0].view(4, 4).argmax() == 4 * row + column
    assert seen.plan[0, 0].sum(dim=-1).view(4, 4).nonzero().tolist() == [[row, column]]
