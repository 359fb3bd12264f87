"""Hand-written prompt templates for class names: CLIP's (arXiv 2103.00020), as CoOp (arXiv 2109.01134) chose them."""

# By the registered name of the data set. Others take DEFAULT.
TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}

DEFAULT = "a photo of a {}."

# CLIP's seven, whose authors found them to do as well on ImageNet as all eighty.
ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def template_of(dataset: str) -> str:
    """Return the template of a data set by its registered name."""
    return TEMPLATES.get(dataset, DEFAULT)
