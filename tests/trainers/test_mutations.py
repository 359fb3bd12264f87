"""Faults put into the code one by one: reference numbers of published code, or a law, must notice each.

A wrong value of a recipe is noticed by tests/test_recipes.py.
"""

import inspect
import textwrap
from pathlib import Path

import pytest
import test_adapters
import test_baselines
import test_method

from dassl.optim import lr_scheduler, optimizer
from scripts.conformance.files import ReferenceFile
from scripts.conformance.ways import check
from sotglp import draw_prompts, negatives, scores, towers, transport
from sotglp.interface import ImageEncoder
from sotglp.prompted import PromptedCLIP, anchor_distance
from sotglp.prompts import Prompts
from sotglp.toolbox.adapter import scale_logits
from sotglp.toolbox.trainer import CLIPTrainer
from trainers import (
    clap,
    cliplora,
    coop,
    gallop,
    gda,
    kgcoop,
    locoop,
    lppp,
    maple,
    plot,
    plotpp,
    prograd,
    promptsrc,
    sotglp,
    tcp,
    tipadapter,
    twosfs,
)

pytest_plugins = ["loops"]

DATA = Path(__file__).parents[1] / "data"
MODEL, TOWER = sotglp.SparseTransportCLIP, towers.ImageTower.encode
FAULTS = {  # {file: {fault: (function, a part of its code, what stands there instead)}}
    "sotglp_reference": {
        "another eps": (MODEL.__init__, "eps=eps)", "eps=1.1 * eps)"),
        "K + 1": (MODEL.__init__, "k=self.topk)", "k=self.topk + 1)"),
        "K - 1": (MODEL.__init__, "k=self.topk)", "k=self.topk - 1)"),
        "1/N dropped": (MODEL.match, " / kept.shape[-1]", ""),
        "plan carries gradient": (MODEL.match, "plan(kept)", "plan(kept) * (1 + kept - kept.detach())"),
        "own supports": (MODEL.__init__, "SUPPORTS[support]", "SUPPORTS['own']"),
        "first V-V block without attention": (TOWER, "standard[:, 1:] + vv if first", "vv if first"),
        "patches without ln_post": (TOWER, "self.ln_post(tokens) for", "tokens for"),
        "M transposed": (ImageEncoder.to_joint, "first.T @", "first @"),
        "M not used": (ImageEncoder.to_joint, "first.T @ matrix", "matrix"),
        "sign of MCM": (scores.mcm, "return -", "return "),
        "sign of L-MCM": (scores.l_mcm, "return -", "return "),
        "half of a loss": (sotglp.sotglp_loss, "F.cross_entropy(", "0.5 * F.cross_entropy("),
        "all global prompts count": (sotglp.branches, "if drawn is None", "if True"),
        "no momentum": (optimizer.build_optimizer, "momentum=optim_cfg.MOMENTUM, damp", "damp"),
        "no weight decay": (optimizer.build_optimizer, "optim_cfg.WEIGHT_DECAY", "0"),
        "no logit scale": (PromptedCLIP.logit_scale.fget, ".exp()", ".exp().clamp(max=1)"),
    },
    "CoOp": {
        "slower cosine": (lr_scheduler.decay_function, "* epoch / epochs", "* epoch / epochs / 2"),
        "no warm-up": (lr_scheduler.build_lr_scheduler, "max(optim_cfg.WARMUP_EPOCH, 0)", "0"),
        "no recount after the warm-up": (lr_scheduler.build_lr_scheduler, "if optim_cfg.WARMUP_RECOUNT", "if False"),
        "no stop": (coop.CoOp.make_model, '"{}."', '"{}"'),
    },
    "CoOp_middle": {"larger half first": (Prompts.__init__, "length // 2", "-(-length // 2)")},
    "KgCoOp": {
        "no weight": (kgcoop.KgCoOp.losses, "self.node.W *", ""),
        "squared distance": (anchor_distance, "1 - F.cos", "2 - 2 * F.cos"),
        "another template": (CLIPTrainer.templates.fget, "template_of(dataset)", "'a photo of a {}.'"),
    },
    "ProGrad": {
        "no projection": (prograd.ProGrad.project, "along < 0", "False"),
        "projection where both agree": (prograd.ProGrad.project, "along < 0", "along > 0"),
        "type behind the name": (CLIPTrainer.templates.fget, "self.TEMPLATES", "{}"),
    },
    "LoCoOp": {
        "sign of the entropy": (locoop.LoCoOp.losses, "-self.node", "self.node"),
        "scores at CLIP's scale": (locoop.LoCoOp.ood_scores, "tau * OPENAI_SCALE / self.model.logit_scale", "tau"),
        "patches of the last block": (locoop.LoCoOp.make_model, '"value"', '"last"'),
    },
    "TCP": {
        "ReLU": (tcp.ClassAwarePrompts.__init__, "QuickGELU()", "nn.ReLU()"),
        "template's start repeated": (tcp.TCP.make_model, '"{}" + ', 'self.templates[0].partition("{}")[0] + "{}" + '),
        "tokens replaced in the next block": (tcp.ClassAwarePrompts.forward, "{self.block:", "{self.block + 1:"),
        "no weight": (tcp.TCP.losses, "self.node.W *", ""),
    },
    "MaPLe": {
        "prompts of other blocks": (maple.CoupledPrompts.image_prompts, "couplings, text", "couplings, text[::-1]")
    },
    "PromptSRC": {
        "mean over images": (promptsrc.PromptSRC.losses, "log_p.numel()", "len(log_p)"),
        "no weight": (promptsrc.PromptSRC.losses, "self.node.TEXT_LOSS_WEIGHT *", ""),
        "last epoch left out": (promptsrc.PromptSRC.after_epoch, "self.max_epoch:", "0:"),
        "normalised before the mean": (promptsrc.RegularisedCLIP.anchor.func, ", normalise=False", ""),
    },
    "PLOT": {
        "exact plans": (transport.stopped_sinkhorn, "change >= threshold", "True"),
        "pooled score": (plot.PLOT.make_model, "== ", "!= "),
    },
    "PLOTPP": {
        "pooled score in the second stage": (plotpp.PairedCLIP.pooled.fget, "not self.learned.joint", "True"),
        "text learns from the start": (plotpp.PLOTPP.choose_stage, "bool(learned.joint)", "True"),
        "the optimizer goes on": (plotpp.PLOTPP.choose_stage, "build_optimizer(learned, self.cfg.OPTIM)", "self.optim"),
    },
    "GalLoP": {
        "K + 1": (gallop.GlobalLocalCLIP.match, "[:, :k,", "[:, : k + 1,"),
        "mean of the prompts' losses": (
            gallop.GalLoP.losses,
            "F.cross_entropy(scale * g, targets)",
            "sum(F.cross_entropy(scale * g, targets) for g in match.g.unbind(dim=-1)) / match.g.shape[-1]",
        ),
        "sum of the branches": (gallop.GalLoP.scores, " / 2", ""),
    },
    "CLIP-LoRA": {"alpha / r": (cliplora.LowRank.__init__, "math.sqrt(rank)", "rank")},
    "Tip-Adapter": {
        "the end of the grid": (tipadapter.CacheTrainer.search, "(scale - 0.1) / steps", "(scale - 0.1) / (steps - 1)"),
        "keys not normalised": (tipadapter.Cache.affinities, "F.normalize(self.keys, dim=-1)", "self.keys"),
    },
    "CLAP": {
        "sum over classes": (clap.CLAP.losses, ".mean()}", ".sum()}"),
        "normalised prototypes": (
            clap.Prototypes.moved,
            "(self.weight - self.text)",
            "(F.normalize(self.weight, dim=-1) - F.normalize(self.text, dim=-1))",
        ),
        "multipliers grow by the last distance alone": (clap.CLAP.after_epoch, "learned.distances * moved", "moved"),
        "multipliers do not grow": (clap.CLAP.after_epoch, "+= learned", "+= 0 * learned"),
    },
    "LPpp": {
        "alpha's gradient forgotten": (lppp.LPPP.step, "self.node.ALL_GRADIENTS", "0"),
        "alpha at each ninth epoch": (lppp.LPPP.step, "ALPHA_EVERY", "9"),
        "the first best epoch": (lppp.BlendedClassifier.keep_best, "hits >= self", "hits > self"),
        "weights start as means": (lppp.BlendedClassifier.start_from, "* counts[:, None]", "* 1"),
    },
    "2SFS": {
        "norms go on in the second stage": (twosfs.TwoSFS.choose_stage, "(not learned.second)", "(True)"),
        "one cosine over both stages": (twosfs.TwoSFS.schedule_epochs.fget, "if self.model.learned.second", "if False"),
        "one schedule for both stages": (twosfs.TwoSFS.choose_stage, "self.restart_schedule()", "None"),
        "classifier starts from no text": (
            twosfs.TwoSFS.choose_stage,
            "self.model.encode_text()[:, 0]",
            "0 * learned.classifier + 1",
        ),
    },
    "NegLabel": {
        "nearest words": (negatives.choose_negatives, ".argsort(", ".neg().argsort("),
        "sign of the score": (negatives.outside, "return -(classes", "return (classes"),
        "no shuffling": (negatives.shuffled, "if seed is None", "if True"),
        "more than the share": (
            negatives.choose_negatives,
            "int(share * len(candidates))",
            "int(share * len(candidates)) + 1",
        ),
    },
    "GDA": {
        "covariance around one mean": (gda.Discriminant.fit, "images - means[labels]", "images"),
        "no shrinkage": (gda.shrunk_precision, "cov.trace()", "0"),
        "whole quadratic form": (gda.Discriminant.fit, ".sum(dim=1) / 2", ".sum(dim=1)"),
    },
}

LAWS = {  # {fault: (function, a part of its code, what stands there instead, the law's test, its arguments)}
    "draw without replacement": (
        *(draw_prompts, "torch.randint(max(n_prompts, 1), (n_images, kept_prompts(n_prompts, p)), device=device)"),
        *("torch.rand(n_images, n_prompts).argsort(dim=1)[:, : kept_prompts(n_prompts, p)]",),
        *(test_method.test_prompts_are_drawn_with_replacement, {}),
    ),
    "exact entropy": (locoop.mean_entropy, "1e-5", "0", test_baselines.test_locoop, {}),
    "KL at temperature 1": (
        *(prograd.ProGrad.losses, "t = self.node.T", "t = 1", test_baselines.test_prograd, {"conflict": True}),
    ),
    "CLIP's own scale": (scale_logits, "if factor", "if False", test_adapters.test_cliplora, {}),
    "last epoch, not the best": (
        *(tipadapter.TipAdapterF.keep_best, "hits > cache.best_hits", "True"),
        *(test_adapters.test_tip_adapter_f_ends_with_the_keys_of_its_best_epoch_on_validation, {}),
    ),
    "validation on test images": (
        *(CLIPTrainer.validates.func, "return bool(dataset.val) and", "return bool(dataset.val) or"),
        *(test_adapters.test_nothing_is_chosen_on_validation_images_that_are_the_tests, {"name": "TipAdapterF"}),
    ),
}


def put(patch, function, part, instead):
    """Give a function, wherever it is referred to, the code of its source with one part replaced."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(part) == 1, f"{part!r} is not in {function.__qualname__}: put the fault elsewhere"
    # In a class, so that super() compiles.
    module = compile("class Any:\n" + textwrap.indent(source.replace(part, instead), " "), __file__, "exec")
    (of_class,) = (part for part in module.co_consts if inspect.iscode(part))
    (code,) = (part for part in of_class.co_consts if inspect.iscode(part) and part.co_name == function.__name__)
    patch.setattr(function, "__code__", code)


@pytest.mark.parametrize("name, fault", [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_reference_numbers_notice(name, fault, monkeypatch):
    put(monkeypatch, *FAULTS[name][fault])
    rows, _ = check(ReferenceFile(next(DATA.rglob(f"{name}.npz"))))
    assert not all(row.passed for row in rows)


@pytest.mark.parametrize("fault", LAWS)
def test_laws_notice(fault, monkeypatch, request):
    *change, law, arguments = LAWS[fault]
    fixtures = {name: request.getfixturevalue(name) for name in inspect.signature(law).parameters.keys() - arguments}
    put(monkeypatch, *change)
    with pytest.raises(AssertionError):
        law(**arguments, **fixtures)
