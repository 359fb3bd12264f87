"""Prompts that start from words are those words; only contexts learn."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from sotglp.clip import CLIP
from sotglp.prompts import (
    Prompts,
    context_from_text,
    encode_names,
    first_tokens,
    orthogonal_contexts,
    xavier_contexts,
)

NAMES = ["cat", "great white shark", "ankle boot"]


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    sizes = dict(embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1)
    return CLIP(**sizes, text_width=64, text_layers=2).requires_grad_(False)


@pytest.mark.parametrize(
    "position, sentence",
    [("end", "A photo of a {}"), ("middle", "A photo {} of a"), ("front", "{} A photo of a")],
)
@pytest.mark.parametrize("suffix", ["", ".", ", a type of texture."])
def test_a_context_of_words_is_the_sentence(clip, position, sentence, suffix):
    context = context_from_text(clip, "A photo of a")[None]
    prompts = Prompts(clip, NAMES, context, f"{{}}{suffix}", position=position)
    sentences = open_clip.tokenize([sentence.format(name) + suffix for name in NAMES])
    torch.testing.assert_close(prompts(clip)[:, 0], F.normalize(clip.encode_text(sentences), dim=-1))


def test_of_an_odd_context_the_larger_half_follows_the_name(clip):
    prompts = Prompts(clip, NAMES, context_from_text(clip, "a photo of")[None], "{}.", position="middle")
    sentences = open_clip.tokenize([f"a {name} photo of." for name in NAMES])
    torch.testing.assert_close(prompts(clip)[:, 0], F.normalize(clip.encode_text(sentences), dim=-1))


@pytest.mark.parametrize("replaced", range(1, 5))
def test_a_context_stands_for_the_first_tokens_of_its_template(clip, replaced):
    """The further ones stay fixed, whatever stands in the place of the first."""
    template, words = "a photo, of {}, a type of pet.", context_from_text(clip, "a photo, of")
    sentences = open_clip.tokenize([template.format(name) for name in NAMES])
    prompts = Prompts(clip, NAMES, words[:replaced][None], template, replaced)
    torch.testing.assert_close(prompts(clip)[:, 0], F.normalize(clip.encode_text(sentences), dim=-1))
    for row, sentence in zip(prompts.ids, sentences, strict=True):
        expected = sentence.clone()
        expected[1 : 1 + replaced] = 0
        assert row[: int(sentence.argmax()) + 1].tolist() == expected[: int(sentence.argmax()) + 1].tolist()
    longer = Prompts(clip, NAMES, torch.cat([torch.zeros(2, 64), words[:replaced]])[None], template, replaced)
    assert torch.equal(longer.eot, prompts.eot + 2)
    assert first_tokens(clip, "a photo, of", replaced).equal(words[:replaced])


def test_each_class_has_its_own_contexts(clip):
    contexts = torch.randn(3, 2, 4, 64)
    together = Prompts(clip, NAMES, contexts)(clip)
    assert together.shape == (3, 2, 16)
    for c, name in enumerate(NAMES):
        for n in range(2):
            alone = Prompts(clip, [name], contexts[c, n][None])(clip)
            torch.testing.assert_close(together[c, n], alone[0, 0])


def test_only_the_context_learns_and_is_saved(clip):
    prompts = Prompts(clip, NAMES, torch.randn(2, 4, 64))
    prompts(clip).sum().backward()
    assert list(prompts.state_dict()) == ["context"]
    assert prompts.context.grad.abs().sum() > 0


@pytest.mark.parametrize("normalise", [True, False])
def test_templates_are_averaged_as_features_or_as_directions(clip, normalise):
    templates, features = ["{}.", "a {} of a photo"], []
    for name in NAMES:
        words = clip.encode_text(open_clip.tokenize([template.format(name) for template in templates]))
        words = [row / row.norm() if normalise else row for row in words]
        features.append(F.normalize(words[0] + words[1], dim=0))
    torch.testing.assert_close(encode_names(clip, NAMES, templates, normalise), torch.stack(features))


def test_xavier_uses_the_fans_of_the_whole_tensor():
    contexts = xavier_contexts(20, 4, 4, 64)
    bound = (6 / (4 * 4 * 64 + 20 * 4 * 64)) ** 0.5
    assert contexts.shape == (20, 4, 4, 64)
    assert 0.98 * bound < contexts.abs().max() <= bound


def test_orthogonal_rows():
    contexts = orthogonal_contexts(3, 4, 5, 64)
    rows = contexts.transpose(1, 2)  # (C, T, N, W)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(4).expand(3, 5, 4, 4) * 1e-6, rtol=0, atol=1e-11)


def test_too_long_a_name_is_refused(clip):
    with pytest.raises(ValueError, match="leaves room for 71"):
        Prompts(clip, ["cat " * 72], torch.randn(1, 4, 64))


def test_replaced_words_take_no_room(clip):
    context, template = torch.randn(1, 4, 64), "a photo of a {}."
    assert len(Prompts(clip, ["cat " * 70], context, template, replaced=4).ids[0]) == 77
    with pytest.raises(ValueError, match="leaves room for 75"):
        Prompts(clip, ["cat " * 71], context, template, replaced=4)


def test_unseen_words_are_reported(clip):
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    clip.known_tokens = frozenset(tokenizer.encode("great shark"))
    with pytest.warns(UserWarning, match="never saw .*: white$"):
        Prompts(clip, ["great white shark"], torch.randn(1, 4, 64))
    clip.known_tokens = frozenset(tokenizer.encode("great white wolf berry sharks"))
    with pytest.warns(UserWarning) as caught:
        Prompts(clip, ["great white shark", "wolves", "berries", "great-berry", "dog"], torch.randn(1, 4, 64))
    clip.known_tokens = frozenset(tokenizer.encode("rosees"))  # pieces of other words, which no one writes
    with pytest.warns(UserWarning, match="class names: rose$"):
        Prompts(clip, ["rose"], torch.randn(1, 4, 64))
    known = (
        "shark (it knows sharks), wolves (it knows wolf), berries (it knows berry), great-berry (it knows great berry)"
    )
    assert str(caught[0].message).endswith(f"class names: {known}, dog")
    clip.known_tokens = None
