"""NegLabel against its paper's formulas, written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from sotglp import choose_negatives, neg_label


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
