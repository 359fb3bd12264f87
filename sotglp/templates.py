"""Hand-written prompts that class names are put into: CLIP's (arXiv 2103.00020), as CoOp (arXiv 2109.01134) chose."""

# By the name of the data set, where it has its own.
TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}

# CLIP's seven, found to do as well on ImageNet as the eighty.
ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def template_of(dataset):
    """The template of a data set by its registered name."""
    return TEMPLATES.get(dataset, "a photo of a {}.")
