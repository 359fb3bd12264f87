"""Matching, model, loss and scores against plain loops."""

import pytest
import torch
import torch.nn.functional as F

from sotglp import Match, draw_prompts, gl_mcm, l_mcm, matching, mcm, transport_plan
from sotglp.clip import CLIP
from sotglp.matching import mean_similarities, on_support, similarities, sparse_support
from trainers.sotglp import SparseTransportCLIP, predict, sotglp_loss

NAMES = ["cat", "great white shark", "ankle boot", "bag"]


@pytest.fixture
def clip():
    torch.manual_seed(0)
    sizes = dict(embed_dim=32, image_size=32, patch_size=8, vision_width=64, vision_layers=2)
    return CLIP(**sizes, text_width=64, text_layers=2)


@pytest.fixture
def match(clip):
    torch.manual_seed(1)
    return SparseTransportCLIP(clip, NAMES, n_global=3, n_local=2, topk=5)(torch.randn(6, 3, 32, 32))


def test_similarities_are_cosines_of_all_pairs():
    features = F.normalize(torch.randn(2, 5, 8), dim=-1)
    text = F.normalize(torch.randn(3, 4, 8), dim=-1)
    s = similarities(features, text)
    for b, p, c, n in [(0, 0, 0, 0), (1, 4, 2, 3), (0, 3, 1, 2)]:
        torch.testing.assert_close(s[b, p, c, n], F.cosine_similarity(features[b, p], text[c, n], dim=0))


@pytest.mark.parametrize("n_classes, n_prompts, k", [(3, 4, 3), (1, 1, 7), (5, 2, 1)])
@pytest.mark.parametrize("part", [1, 60, 10**6])
def test_support_is_shared_and_holds_the_best_means(monkeypatch, n_classes, n_prompts, k, part):
    """Like all similarities at once, forward and backward, however many are held at a time."""
    monkeypatch.setattr(matching, "PART", part)
    patches = F.normalize(torch.randn(2, 7, 8), dim=-1).requires_grad_()
    text = F.normalize(torch.randn(n_classes, n_prompts, 8), dim=-1).requires_grad_()
    s = similarities(patches, text)
    support = sparse_support(mean_similarities(patches, text), k)
    kept = on_support(patches, text, support)
    expected = torch.empty_like(kept)
    for b in range(2):
        for c in range(n_classes):
            ranked = sorted(range(7), key=lambda p: -s[b, p, c].mean().item())  # noqa: B023 (used at once)
            assert support[b, c].tolist() == ranked[:k]
            expected[b, c] = s[b, ranked[:k], c]
    torch.testing.assert_close(kept, expected)
    weights = torch.randn_like(kept)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), [patches, text]) for x in (kept, expected))
    torch.testing.assert_close(ours, theirs)


def test_no_more_similarities_are_held_than_a_part(monkeypatch):
    monkeypatch.setattr(matching, "PART", 2 * 50 * 4 * 3)  # three classes
    patches, text = torch.randn(2, 50, 8), torch.randn(10, 4, 8, requires_grad=True)
    held = []

    def note(tensor):
        held.append(tensor.numel())
        return tensor

    support = sparse_support(mean_similarities(patches, text.detach()), 5)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        on_support(patches, text, support)
    assert max(held) < 2 * 50 * 4 * 3


@pytest.mark.parametrize("k", [0, 8])
def test_support_larger_than_the_image_is_refused(k):
    with pytest.raises(ValueError, match="1 to P = 7"):
        sparse_support(torch.randn(2, 7, 3), k)


def test_forward_is_the_method_image_by_image(clip):
    torch.manual_seed(2)
    model = SparseTransportCLIP(clip, NAMES, n_global=2, n_local=3, topk=4, eps=0.05)
    with torch.no_grad():
        model.learned["projection"].weight.add_(0.1 * torch.randn(64, 64))
        images = torch.randn(3, 3, 32, 32)
        match = model(images)
        t_global, t_local = model.encode_text()
        for b in range(3):
            class_token, tokens = (t[0] for t in clip.visual(images[b : b + 1]))
            image = F.normalize(class_token @ clip.visual.proj, dim=0)
            patches = F.normalize(tokens @ model.learned["projection"].weight.T @ clip.visual.proj, dim=-1)
            for c in range(len(NAMES)):
                torch.testing.assert_close(match.g[b, c], t_global[c] @ image)
                s = patches @ t_local[c].T  # (P, N)
                kept = s[s.mean(dim=1).argsort(descending=True)[:4]]
                plan = transport_plan(kept, 0.05)
                torch.testing.assert_close(match.l[b, c], (plan * kept).sum() / 3, rtol=1e-5, atol=1e-6)


def test_a_start_from_the_identity_is_the_projection_free_variant(clip):
    torch.manual_seed(3)
    images = torch.randn(2, 3, 32, 32)
    models = []
    for projection in (True, False):
        torch.manual_seed(4)
        models.append(SparseTransportCLIP(clip, NAMES, topk=5, projection=projection))
    for ours, theirs in zip(*(model(images) for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert "projection" not in models[1].learned


def test_only_prompts_and_projection_learn(clip):
    model = SparseTransportCLIP(clip, NAMES, topk=5)
    match = model(torch.randn(2, 3, 32, 32))
    losses = sotglp_loss(match, torch.tensor([0, 1]), model.logit_scale, draw_prompts(2, 3, 0.75))
    sum(losses.values()).backward()
    assert all((p.grad is not None) == name.startswith("learned.") for name, p in model.named_parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.learned.parameters())


@pytest.mark.parametrize(
    "options, message",
    [({"topk": 17}, "P = 16"), ({"local_init": "zeros"}, "xavier"), ({"n_global": 0, "n_local": 0}, "at least 1")],
)
def test_impossible_settings_are_refused(clip, options, message):
    with pytest.raises(ValueError, match=message):
        SparseTransportCLIP(clip, NAMES, **options)


def test_loss_is_two_cross_entropies(match):
    targets, drawn, scale = torch.tensor([0, 1, 2, 3, 0, 1]), torch.randint(3, (6, 2)), 20.0
    losses = sotglp_loss(match, targets, scale, drawn)
    by_hand = 0.0
    for b in range(6):
        logits = scale * sum(match.g[b, :, m] for m in drawn[b]) / 2
        by_hand -= logits.log_softmax(dim=0)[targets[b]] / 6
    torch.testing.assert_close(losses["global"], by_hand)
    torch.testing.assert_close(losses["local"], F.cross_entropy(scale * match.l, targets))


@pytest.mark.parametrize("n_prompts, p, kept", [(3, 0.75, 1), (4, 0.75, 1), (8, 0.75, 2), (3, 0.0, 3), (3, 1.0, 1)])
def test_prompt_dropout_keeps_its_share(n_prompts, p, kept):
    drawn = draw_prompts(1000, n_prompts, p)
    assert drawn.shape == (1000, kept)
    assert drawn.unique().tolist() == list(range(n_prompts))


def test_prompts_are_drawn_with_replacement():
    torch.manual_seed(0)
    first, second = draw_prompts(8000, 8, 0.75).T
    for prompt in range(8):
        assert (first == prompt).float().mean().item() == pytest.approx(1 / 8, abs=0.02)
    assert (first == second).float().mean().item() == pytest.approx(1 / 8, abs=0.02)


def test_prediction_averages_the_branches(match):
    prediction = predict(match, 10.0)
    logits = (match.g.mean(dim=-1) + match.l) / 2
    torch.testing.assert_close(prediction["combined"], torch.softmax(10.0 * logits, dim=-1))
    torch.testing.assert_close(prediction["global"], torch.softmax(10.0 * match.g.mean(dim=-1), dim=-1))
    torch.testing.assert_close(prediction["local"], torch.softmax(10.0 * match.l, dim=-1))


def test_ood_scores_by_hand():
    g = torch.tensor([[[0.4, 0.6], [0.1, 0.1]]])  # B 1, C 2, G 2
    s = torch.tensor([[[0.3, 0.2], [0.0, 0.9]]])  # B 1, P 2, C 2
    match = Match(g, s, support=None, plan=None, l=None)
    best = torch.tensor(0.4).sigmoid()  # softmax of (0.5, 0.1)
    best_patch = torch.tensor(0.9).sigmoid()  # patch 1, class 1
    torch.testing.assert_close(mcm(match), -best[None])
    torch.testing.assert_close(l_mcm(match), -best_patch[None])
    torch.testing.assert_close(gl_mcm(match), -(best + best_patch)[None])
    torch.testing.assert_close(mcm(match, tau=0.1), -torch.tensor([4.0]).sigmoid())
