"""NegLabel against its paper's formulas, written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from scripts.embedded import make_words, wordnet
from sotglp import choose_negatives, load_clip, matching, neg_label, negatives, ood_scores
from sotglp.negatives import TEMPLATES
from sotglp.prompted import Similarities
from sotglp.prompts import encode_names
from sotglp.tokens import bpe


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0])), dim=-1)


def test_the_furthest_words_by_the_quantile_are_chosen():
    words, classes = unit(40, 16), unit(21, 16)
    nearness = []
    for word in words.tolist():
        cosines = sorted(sum(a * b for a, b in zip(word, name, strict=True)) for name in classes.tolist())
        nearness.append(cosines[19])  # 19 of 20 steps from the least to the largest: the 95 % quantile
    expected = sorted(range(40), key=nearness.__getitem__)[:6]
    assert choose_negatives(words, classes).tolist() == expected


@pytest.mark.parametrize("n_groups", [None, 2, 3])
def test_the_score_is_the_share_of_the_classes_averaged_over_groups(n_groups):
    images, classes, words = unit(5, 16), unit(4, 16), unit(11, 16)
    ours = neg_label(images @ classes.T, images @ words.T, n_groups, tau=0.1)
    size = 11 // (n_groups or 1)
    used = size * (n_groups or 1)
    order = torch.randperm(used, generator=torch.Generator().manual_seed(0)).tolist()
    for image, score in zip(images, ours, strict=True):
        inside = sum(math.exp(float(image @ name) / 0.1) for name in classes)
        shares = []
        for start in range(0, used, size):
            outside = sum(math.exp(float(image @ words[word]) / 0.1) for word in order[start : start + size])
            shares.append(inside / (inside + outside))
        assert math.isclose(-score.item(), sum(shares) / len(shares), rel_tol=1e-5)


def test_an_image_of_a_negative_is_further_out_than_one_of_a_class():
    classes, words = unit(4, 16), unit(200, 16)
    inside, outside = (neg_label(images @ classes.T, images @ words.T) for images in (classes, words))
    assert inside.mean() < outside.mean()


@pytest.mark.parametrize("n_groups", [0, 12])
def test_an_impossible_number_of_groups_is_refused(n_groups):
    with pytest.raises(ValueError, match="11 negatives are dealt out to 1 to 11 groups"):
        neg_label(torch.zeros(2, 3), torch.zeros(2, 11), n_groups)


@pytest.mark.parametrize("part", [2**26, 1])
def test_each_patch_has_the_score_of_its_cosines(part, monkeypatch):
    monkeypatch.setattr(matching, "PART", part)  # all groups at once, or one by one
    patches, classes, words = unit(6, 16).view(2, 3, 16), unit(4, 16), unit(11, 16)
    dealt = negatives.deal(11, 3)
    ours = negatives.neg_label_of(patches, patches @ classes.T, words[dealt], tau=0.1)
    expected = [neg_label(image @ classes.T, image @ words.T, 3, tau=0.1) for image in patches]
    torch.testing.assert_close(ours, torch.stack(expected))
    assert sorted(dealt.flatten().tolist()) == list(range(9)) and dealt.shape == (3, 3)


def test_the_best_patch_and_the_scale_of_the_logits_by_hand():
    images, patches, classes, words = unit(2, 8), unit(10, 8).view(2, 5, 8), unit(3, 8), unit(6, 8)
    match = Similarities((images @ classes.T)[..., None], patches @ classes.T)
    texts = {"NegLabel": lambda: words.view(2, 3, 8), "P-NegLabel": lambda: -words.view(2, 3, 8)}
    found = ood_scores(match, 20, joint=lambda: (images, patches), negatives=texts)
    assert {"NegLabel", "P-NegLabel", "L-NegLabel"} < set(found)

    def share(x, words):
        inside = sum(math.exp(20 * float(x @ name)) for name in classes)
        outside = (sum(math.exp(20 * float(x @ word)) for word in group) for group in (words[:3], words[3:]))
        return sum(inside / (inside + of_group) for of_group in outside) / 2

    for i in range(2):
        assert math.isclose(-found["NegLabel"][i], share(images[i], words), rel_tol=1e-5)
        assert math.isclose(-found["P-NegLabel"][i], share(images[i], -words), rel_tol=1e-5)
        assert math.isclose(-found["L-NegLabel"][i], max(share(x, words) for x in patches[i]), rel_tol=1e-5)


def test_scores_are_computed_when_they_are_read():
    match = Similarities(torch.rand(2, 3, 1), None)
    found = ood_scores(match, 20, joint=lambda: (unit(2, 8), None), negatives={"NegLabel": lambda: 1 / 0})
    assert list(found) == ["MCM", "MaxLogit", "Energy", "NegLabel"] and found["MCM"].shape == (2,)
    with pytest.raises(ZeroDivisionError):
        found["NegLabel"]


@pytest.mark.parametrize("most", [2**23, 1])
def test_words_in_parts_are_the_same_words(most, monkeypatch):
    expected = choose_negatives(unit(40, 16), unit(21, 16))
    monkeypatch.setattr(negatives, "MOST", most)
    assert choose_negatives(unit(40, 16), unit(21, 16)).equal(expected)


NAMES = ("t-shirt", "ankle boot", "bag")


def test_nouns_and_adjectives_are_chosen_apart_among_words_that_the_clip_knows(monkeypatch):
    clip = load_clip("small")
    known = {kind: [word for word in negatives.read_words(kind) if knows_all(clip, word)] for kind in TEMPLATES}
    assert all(0 < len(known[kind]) < len(negatives.read_words(kind)) for kind in TEMPLATES)
    classes = encode_names(clip, NAMES, ["the nice {}"])
    expected = []
    for kind, template in (("nouns", "the nice {}"), ("adjectives", "This is a {} photo")):
        text = encode_names(clip, known[kind], [template])
        expected += [known[kind][i] for i in choose_negatives(text, classes).tolist()]
    words, text = negatives.find_negatives(clip, NAMES)
    monkeypatch.setattr(negatives, "GROUPS", 1)
    alone, _ = negatives.find_negatives(clip, NAMES)
    assert sorted(alone) == sorted(expected) and set(words) <= set(expected)
    n_groups, size, _ = text.shape
    assert n_groups == min(100, len(expected)) and size == len(expected) // n_groups and len(words) == n_groups * size
    noun = next(i for i, word in enumerate(words) if word not in known["adjectives"])
    of_word = encode_names(clip, [words[noun]], ["the nice {}"])[0]
    torch.testing.assert_close(text.flatten(0, 1)[noun], of_word, atol=1e-5, rtol=0)


def knows_all(clip, word):
    return set(bpe().encode(word)) <= clip.known_tokens


def test_a_clip_that_knows_no_word_is_refused():
    clip = load_clip("small")
    clip.known_tokens = frozenset()
    with pytest.raises(ValueError, match="knows too few of them"):
        negatives.find_negatives(clip, NAMES)


def test_negatives_are_kept_for_other_runs(tmp_path, monkeypatch):
    def found(names=NAMES):
        return negatives.negatives_of.__wrapped__("small", names, torch.device("cpu"), str(tmp_path))

    first = found()
    (path,) = tmp_path.iterdir()
    count = []
    find = negatives.find_negatives
    monkeypatch.setattr(negatives, "find_negatives", lambda *arguments: count.append(arguments) or find(*arguments))
    again = found()
    assert again.words == first.words and again.text.equal(first.text) and not count
    assert found(("dog", "cat")).words != first.words and len(count) == 1  # other classes
    path.write_bytes(b"damaged")
    assert found().text.equal(first.text) and len(count) == 2 and len(list(tmp_path.iterdir())) == 2
    negatives.negatives_of.__wrapped__("small", NAMES, torch.device("cpu"), str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_words_are_those_that_wordnet_spells_in_small_letters(tmp_path):
    (tmp_path / "data.noun").write_text(
        "  1 This software\n"
        "00001740 05 n 03 hot_dog 0 Paris 0 9/11 0 001 @ 00001930 n 0000 | a gloss of cat\n"
        "00001930 05 n 02 cat-o'-nine-tails 0 x 0 000 | one letter\n"
    )
    (tmp_path / "data.adj").write_text("00001740 00 a 02 galore(ip) 0 able 0 000 | gloss\n")
    assert wordnet.common_words(tmp_path / "data.noun") == ["cat-o'-nine-tails", "hot dog"]
    assert wordnet.common_words(tmp_path / "data.adj") == ["able", "galore"]
    assert make_words.licence(tmp_path / "data.noun") == "This software\n"
