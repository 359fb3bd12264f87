"""Images in RGB, as a viewer shows them. This file needs only Pillow and NumPy: exported models take it along.

Letters: an image is H x W pixels.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageFile

# What may differ between an image and its file's plain pixels, and how it is said.
REMARKS = {
    "first frame": "with several frames or pages: the first one is taken",
    "truncated": "cut off: what is missing is grey or coarse",
    "background": "transparent: laid on the background (INPUT.BACKGROUND)",
    "depth": "of more than 8 bits: their range is scaled to 0 to 255",
    "turned": "turned as their EXIF data say (INPUT.EXIF)",
    "colours": "with a colour profile: converted to sRGB (INPUT.EXIF)",
}
FRAMES = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "FLI")  # in other formats the further frames are previews or layers
TURNS = {  # EXIF's orientation: what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF
PROFILES = {"RGB": "RGB ", "CMYK": "CMYK", "L": "GRAY"}  # mode: colour space of the profiles that fit it
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands in a file's first bytes
AVIF = (b"avif", b"avis")


class Member(io.BytesIO):
    """The bytes of an image in an archive, in the place of a path.

    Args:
        data: The bytes.
        name: What messages call it.
    """

    def __init__(self, data, name):
        super().__init__(data)
        self.name = name

    def __str__(self):
        return self.name


def in_words(counts):
    """Return {key of REMARKS: number of images} as one line."""
    return "; ".join(f"{number} image{'s' * (number > 1)} {REMARKS[key]}" for key, number in counts.items())


def open_image(path, at_least=None, exif=True, background="white", truncated=False, remarks=None):
    """Return the image in a file as a PIL image in RGB.

    Args:
        path: Path of the file, or a Member.
        at_least: (width, height) in pixels. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is not smaller:
            this is faster, but pixels differ a little after resizing. None decodes the whole image.
        exif: Whether to turn the image as its EXIF data say, and to convert its colours by its profile.
        background: Colour under transparent pixels, as Pillow names it.
        truncated: Whether to take what is there of a file that is cut off.
        remarks: A set, to which the keys of REMARKS that apply are added.

    Raises:
        Exception: The file is missing, damaged or no image. Pillow's formats raise many types.
    """
    remarks = set() if remarks is None else remarks
    silence_pillow()
    try:
        with pillow_image(path, at_least) as image:
            if image.format in FRAMES and getattr(image, "is_animated", False):
                remarks.add("first frame")
            image.load()
            return to_rgb(image, exif, background, remarks)
    except Image.DecompressionBombError:
        raise OSError(f"it has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels") from None
    except Image.UnidentifiedImageError:
        raise OSError(reason_of(path)) from None
    except (OSError, SyntaxError) as error:  # of a PNG, the second
        if not (truncated and is_cut_off(path)):
            raise
        image = what_is_there(path, at_least, exif, background, remarks)
        if all(low == high for low, high in image.getextrema()):
            raise error from None  # nothing of it is there
        remarks.add("truncated")
        return image


def silence_pillow():
    """Ignore Pillow's warnings, which name its own files and lines: what matters of them is a remark, or an error."""
    if not any(kind is Image.DecompressionBombWarning for _, _, kind, *_ in warnings.filters):
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def pillow_image(path, at_least):
    """Return an opened file as a PIL image, not yet decoded."""
    if str(path).lower().endswith((".heic", ".heif", ".hif")):
        register_heif()
    image = Image.open(path)
    if at_least:
        image.draft(None, at_least)
    return image


def register_heif():
    """Let Pillow read HEIC files, if the package for them is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def reason_of(path):
    """Return why Pillow does not know a file's format, in words."""
    if isinstance(path, Member):
        start = path.getvalue()[:12]
    else:
        with open(path, "rb") as file:
            start = file.read(12)
    if not start:
        return "the file is empty"
    if start[4:8] == b"ftyp" and start[8:] in HEIC:
        return "it is a HEIC image, which needs a package: pip install pillow-heif"
    if start[4:8] == b"ftyp" and start[8:] in AVIF:
        return "it is an AVIF image, which needs Pillow 11.3 or newer: pip install -U pillow"
    return "it is no image that Pillow knows"


def is_cut_off(path):
    """Return whether a file begins as an image does; what fails then is its end."""
    try:
        with pillow_image(path, None):
            return True
    except Exception:
        return False


def what_is_there(path, at_least, exif, background, remarks):
    """Return the image in a file that is cut off. Other threads must not read images meanwhile."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with pillow_image(path, at_least) as image:
            image.load()
            return to_rgb(image, exif, background, remarks)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def to_rgb(image, exif=True, background="white", remarks=None):
    """Return a PIL image of any mode in RGB; arguments as in `open_image`."""
    remarks = set() if remarks is None else remarks
    turn = TURNS.get(orientation(image)) if exif else None
    profile = image.info.get("icc_profile") if exif else None
    if image.mode[0] in "IF":
        image = eight_bits(image)
        remarks.add("depth")
    alpha = None
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    elif image.mode not in PROFILES:
        image = image.convert("RGB")
    if profile:
        image = in_srgb(image, profile, remarks)
    image = image.convert("RGB")
    if alpha is not None and alpha.getextrema()[0] < 255:
        below = Image.new("RGB", image.size, ImageColor.getrgb(background)[:3])
        image = Image.composite(image, below, alpha)
        remarks.add("background")
    if turn is not None:
        image = image.transpose(turn)
        remarks.add("turned")
    image.info = {}  # what it said was followed: a second call changes nothing
    return image


def orientation(image):
    """Return EXIF's orientation, 1 to 8; None if the image has none, or EXIF data that cannot be read."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data raise many types
        return None


def eight_bits(image):
    """Return a grey image of whole numbers or fractions in 8 bits, black and white where a viewer shows them.

    A format with a fixed depth has its own white (16 bits: 65535). Otherwise white is the smallest of 1 (fractions
    only), 255 and 65535 that no pixel exceeds, if the brightest one reaches half of 255 or 65535. If there is no such
    white, or if a pixel is below 0, these are no levels of grey but temperatures, counts or the like: the darkest pixel
    is black and the brightest one white.
    """
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    seen = values[np.isfinite(values)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    if image.mode.startswith("I;16"):
        fitting = [white for white in (2 ** min(tags.get(BITS, (16,))[0], 16) - 1, 65535) if high <= white]
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        fitting = [65535]
    elif image.mode == "F" and 0 <= low and high <= 1:
        fitting = [1]
    else:
        fitting = [white for white in (255, 65535) if 0 <= low and white / 2 <= high <= white]
    low, high = (0.0, fitting[0]) if fitting else (low, high)
    # In steps of rows: fractions of eight bytes would take much memory for a large image.
    grey = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):
        line = np.nan_to_num(line.astype(np.float64), nan=low, posinf=high, neginf=low)
        grey[row] = np.rint((line - low) * (255 / (high - low) if high > low else 0))
    if tags.get(PHOTOMETRIC) == 0:
        grey = 255 - grey  # TIFF's "white is zero"
    result = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        result.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return result


def in_srgb(image, profile, remarks):
    """Return an image (RGB, CMYK or L) with its colours converted to sRGB; as it is if the profile does not fit it.

    Args:
        image: The image.
        profile: Content of its ICC profile.
        remarks: As in `open_image`.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        known = "sRGB" in ImageCms.getProfileDescription(source)
        if known or source.profile.xcolor_space != PROFILES[image.mode]:
            return image
        intent = ImageCms.getDefaultIntent(source)
        result = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), intent, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):  # a damaged profile, which viewers ignore as well
        return image
    remarks.add("colours")
    return result
