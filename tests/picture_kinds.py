"""Image files of the kinds that people have, each with the pixels that a viewer shows, found in a slow, plain way."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms, ImageDraw

H, W = 24, 40
SMOOTH = Image.fromarray(np.random.default_rng(3).integers(0, 256, (3, 5, 3), np.uint8)).resize((W, H), 3)
RGB = np.asarray(SMOOTH)
GREY = np.asarray(SMOOTH.convert("L"))


def disc():
    """A black disc on nothing, and what is seen of it on white."""
    image = Image.new("RGBA", (W, H), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((8, 2, 28, 22), (0, 0, 0, 255))
    seen = [[[0] * 3 if alpha else [255] * 3 for alpha in row] for row in np.asarray(image)[..., 3]]
    return image, np.array(seen)


def on_white(rgba):
    """Each pixel by itself, as painters lay colour on paper."""
    return np.array([[[c * p[3] / 255 + 255 - p[3] for c in p[:3]] for p in row] for row in rgba.astype(float)])


def spread(values, low, high):
    """Grey levels of numbers, pixel by pixel: `low` is black and `high` white."""
    return np.array([[[255 * (float(v) - low) / (high - low)] * 3 for v in row] for row in values])


def pgm(values, white):
    return b"P5 %d %d %d\n" % (W, H, white) + values.astype(">u2").tobytes()


def tiff(values, bits, photometric=1):
    """A TIFF of one strip of grey values, whose bits are packed."""
    height, width = values.shape
    packed = "".join(format(int(v), f"0{bits}b") for v in values.flat)
    data = values.astype("<u2").tobytes() if bits == 16 else int(packed, 2).to_bytes(len(packed) // 8, "big")
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, len(data))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
    padding = bytes(len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(padding)) + data + padding + directory + bytes(4)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def icc(space, channels, colour_of):
    """An ICC profile of a table with the two ends of each channel: `colour_of(bits)` gives Lab in bytes."""
    nodes = [[(number >> (channels - 1 - i)) & 1 for i in range(channels)] for number in range(2**channels)]
    table = bytes(value for bits in nodes for value in colour_of(bits))
    line = bytes(range(256))
    lut = (
        b"mft1" + bytes(4) + bytes([channels, 3, 2, 0]) + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    )
    lut += line * channels + table + line * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, offset, body = b"", 128 + 4 + 12 * 3, b""
    for name, data in ((b"desc", text), (b"wtpt", white), (b"A2B0", lut)):
        tags += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = (
        struct.pack(">I", offset + len(body)) + bytes(4) + struct.pack(">I", 0x02400000) + b"prtr" + space + b"Lab "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header + bytes(128 - len(header)) + struct.pack(">I", 3) + tags + body


def lightness(bits):
    """All inks are grey here: each takes its share of the light, so no naive conversion gives the same."""
    return [round(255 * (1 - sum(bits) / 4)), 128, 128]


def grey_of(lab_lightness):
    """The sRGB level of a CIE lightness of 0 to 100."""
    y = ((lab_lightness + 16) / 116) ** 3 if lab_lightness > 8 else lab_lightness / 903.3
    return 255 * (12.92 * y if y <= 0.0031308 else 1.055 * y ** (1 / 2.4) - 0.055)


def turned(orientation):
    """The stored pixels of the picture RGB, and EXIF data that turn them back."""
    stored = {
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, 1),
        7: np.rot90(RGB.transpose(1, 0, 2), 2),
        8: np.rot90(RGB, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(stored)), exif


def kinds():
    """{name: (file name's end, content, pixels seen, largest difference, remarks)}"""
    found = {}

    def add(name, end, content, seen, off=1, *remarks):
        seen = np.asarray(seen, float)
        found[name] = end, content, np.stack([seen] * 3, -1) if seen.ndim == 2 else seen, off, set(remarks)

    image, seen = disc()
    faint = Image.fromarray(np.dstack([RGB, GREY]))
    add("RGBA PNG", "png", encoded(image, "PNG"), seen, 0, "background")
    add("half transparent RGBA PNG", "png", encoded(faint, "PNG"), on_white(np.asarray(faint)), 1, "background")
    add("opaque RGBA PNG", "png", encoded(SMOOTH.convert("RGBA"), "PNG"), RGB, 0)
    palette = image.quantize(4)
    add("palette PNG with alpha of each colour", "png", encoded(palette, "PNG"), seen, 0, "background")
    keyed = Image.fromarray((np.asarray(image)[..., 3] > 0).astype(np.uint8), "P")
    keyed.putpalette([9, 9, 9, 0, 0, 0])
    add("palette PNG with a clear colour", "png", encoded(keyed, "PNG", transparency=0), seen, 0, "background")
    add("GIF with a clear colour", "gif", encoded(keyed, "GIF", transparency=0), seen, 0, "background")
    white_grey = Image.fromarray(np.where(seen[..., 0] > 0, 7, 0).astype(np.uint8))
    add("grey PNG with a clear level", "png", encoded(white_grey, "PNG", transparency=7), seen, 0, "background")
    add("grey and alpha PNG", "png", encoded(image.convert("LA"), "PNG"), seen, 0, "background")
    add("WebP with alpha", "webp", encoded(image, "WEBP", lossless=True, exact=True), seen, 0, "background")
    add("AVIF with alpha", "avif", encoded(image, "AVIF", quality=100, subsampling="4:4:4"), seen, 40, "background")
    add("TIFF with alpha", "tif", encoded(faint, "TIFF"), on_white(np.asarray(faint)), 1, "background")
    add("TGA with alpha", "tga", encoded(image, "TGA"), seen, 0, "background")
    add("ICO", "ico", encoded(SMOOTH.convert("RGBA"), "ICO", sizes=[(W, H)]), RGB, 0)
    add("palette PNG", "png", encoded(SMOOTH.quantize(256), "PNG"), RGB, 60)
    add("BMP", "bmp", encoded(SMOOTH, "BMP"), RGB, 0)
    add("PPM", "ppm", encoded(SMOOTH, "PPM"), RGB, 0)
    add("QOI", "qoi", encoded(SMOOTH, "QOI"), RGB, 0)
    add("JPEG 2000", "jp2", encoded(SMOOTH, "JPEG2000", irreversible=False), RGB, 0)
    add("AVIF", "avif", encoded(SMOOTH, "AVIF", quality=100, subsampling="4:4:4"), RGB, 8)
    add("progressive JPEG", "jpg", encoded(SMOOTH, "JPEG", quality=98, subsampling=0, progressive=True), RGB, 8)
    add("JPEG named PNG", "png", encoded(SMOOTH, "JPEG", quality=98, subsampling=0), RGB, 8)
    add("grey JPEG", "jpeg", encoded(SMOOTH.convert("L"), "JPEG", quality=98), GREY, 6)

    black_white = GREY > 127
    add("PNG of 1 bit", "png", encoded(Image.fromarray(black_white), "PNG"), black_white * 255, 0)
    add("fax TIFF", "tif", encoded(Image.fromarray(black_white), "TIFF", compression="group4"), black_white * 255, 0)
    four = GREY // 16
    add("TIFF of 4 bits", "tif", tiff(four, 4), four * 17, 0)
    add("TIFF of 8 bits, white is zero", "tif", tiff(GREY, 8, 0), 255 - GREY.astype(int), 0)
    deep = GREY.astype(np.uint16) * 200 + 31
    add("PNG of 16 bits", "png", encoded(Image.fromarray(deep), "PNG"), spread(deep, 0, 65535), 1, "depth")
    add("TIFF of 16 bits", "tiff", encoded(Image.fromarray(deep), "TIFF"), spread(deep, 0, 65535), 1, "depth")
    add("TIFF of 16 bits, white is zero", "tif", tiff(deep, 16, 0), spread(deep, 65535, 0), 1, "depth")
    twelve = GREY.astype(np.uint16) * 16
    add("TIFF of 12 bits", "tif", tiff(twelve, 12), spread(twelve, 0, 4095), 1, "depth")
    add("PGM of 12 bits", "pgm", pgm(twelve, 4095), spread(twelve, 0, 4095), 1, "depth")
    add("PGM of 16 bits", "pgm", pgm(deep, 65535), spread(deep, 0, 65535), 1, "depth")
    hole = np.where(seen[..., 0] > 0, 40000, 0).astype(np.uint16)
    add("PNG of 16 bits with a clear level", "png", encoded(Image.fromarray(hole), "PNG", transparency=40000), seen, 0,
        "background", "depth")  # fmt: skip
    light = (GREY / 255).astype(np.float32)
    add("float TIFF of 0 to 1", "tif", encoded(Image.fromarray(light), "TIFF"), spread(light, 0, 1), 1, "depth")
    add("float TIFF of 0 to 255", "tif", encoded(Image.fromarray(light * 250), "TIFF"), spread(light * 250, 0, 255), 1,
        "depth")  # fmt: skip
    heat = light * 3000 - 500
    add("float TIFF of degrees", "tif", encoded(Image.fromarray(heat), "TIFF"), spread(heat, heat.min(), heat.max()), 1,
        "depth")  # fmt: skip
    holed = heat.copy()
    holed[3, 4], holed[5, 6] = np.nan, np.inf
    shown = spread(np.where(np.isfinite(holed), heat, heat.min()), heat.min(), heat.max())
    shown[5, 6] = 255
    add("float TIFF without some values", "tif", encoded(Image.fromarray(holed), "TIFF"), shown, 1, "depth")
    kelvins = light * 60 + 250
    shown = spread(kelvins, kelvins.min(), kelvins.max())
    add("float TIFF of Kelvins", "tif", encoded(Image.fromarray(kelvins), "TIFF"), shown, 1, "depth")
    beyond = light * 1.5
    shown = spread(beyond, beyond.min(), beyond.max())
    add("float TIFF beyond 1", "tif", encoded(Image.fromarray(beyond), "TIFF"), shown, 1, "depth")
    long = deep.astype(np.int32)
    add("TIFF of 16 bits in 32", "tif", encoded(Image.fromarray(long), "TIFF"), spread(long, 0, 65535), 1, "depth")
    whole = GREY.astype(np.int32) * 300_000 - 7
    add("TIFF of 32 bits", "tif", encoded(Image.fromarray(whole), "TIFF"), spread(whole, whole.min(), whole.max()), 1,
        "depth")  # fmt: skip
    add("PNG of 16 bits, one level", "png", encoded(Image.fromarray(np.full((H, W), 32768, np.uint16)), "PNG"),
        np.full((H, W), 128), 1, "depth")  # fmt: skip

    inks = Image.fromarray(np.dstack([RGB, 255 - GREY]), "CMYK")
    plain = np.array([[[(255 - c) * (255 - p[3]) / 255 for c in p[:3]] for p in row] for row in np.asarray(inks, int)])
    add("CMYK TIFF", "tif", encoded(inks, "TIFF"), plain, 1)
    levels = np.array([[grey_of(100 * (1 - sum(p) / 255 / 4)) for p in row] for row in np.asarray(inks, int)])
    profile = icc(b"CMYK", 4, lightness)
    add("CMYK TIFF with a profile", "tif", encoded(inks, "TIFF", icc_profile=profile), levels, 3, "colours")
    add("CMYK JPEG with a profile", "jpg", encoded(inks, "JPEG", quality=100, subsampling=0, icc_profile=profile),
        levels, 5, "colours")  # fmt: skip
    add("CMYK TIFF with a damaged profile", "tif", encoded(inks, "TIFF", icc_profile=profile[:200]), plain, 1)
    dim = icc(b"RGB ", 3, lambda bits: [round(255 * sum(bits) / 6), 128, 128])
    half = np.array([[grey_of(100 * sum(p) / 255 / 6) for p in row] for row in RGB.astype(float)])
    add("RGB PNG with a profile", "png", encoded(SMOOTH, "PNG", icc_profile=dim), half, 3, "colours")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    add("RGB PNG with sRGB's profile", "png", encoded(SMOOTH, "PNG", icc_profile=srgb), RGB, 0)
    lab = Image.fromarray(np.dstack([GREY, np.zeros((H, W, 2), np.uint8)]), "LAB")
    add(
        "Lab TIFF",
        "tif",
        encoded(lab, "TIFF"),
        [[grey_of(100 * v / 255) for v in row] for row in GREY.astype(float)],
        3,
    )

    for orientation in range(2, 9):
        stored, exif = turned(orientation)
        options = {"quality": 98, "subsampling": 0, "exif": exif}
        add(f"JPEG of orientation {orientation}", "jpg", encoded(stored, "JPEG", **options), RGB, 8, "turned")
    stored, exif = turned(6)
    add("PNG turned by EXIF", "png", encoded(stored, "PNG", exif=exif), RGB, 0, "turned")
    add("WebP turned by EXIF", "webp", encoded(stored, "WEBP", exif=exif, lossless=True), RGB, 0, "turned")

    frames = {"save_all": True, "append_images": [Image.new("RGB", (W, H), "red")], "duration": 50}
    add("animated GIF", "gif", encoded(SMOOTH.quantize(256), "GIF", **frames), RGB, 60, "first frame")
    add("animated PNG", "png", encoded(SMOOTH, "PNG", **frames), RGB, 0, "first frame")
    add("animated WebP", "webp", encoded(SMOOTH, "WEBP", **frames, lossless=True), RGB, 0, "first frame")
    pages = {"save_all": True, "append_images": [Image.new("RGB", (W, H), "red")]}
    add("TIFF of two pages", "tif", encoded(SMOOTH, "TIFF", **pages), RGB, 0, "first frame")
    add("JPEG of two views", "mpo", encoded(SMOOTH, "MPO", **pages, quality=98, subsampling=0), RGB, 8)
    for name, options in {"JPEG": {}, "progressive JPEG": {"progressive": True}}.items():
        content = encoded(SMOOTH, "JPEG", quality=98, subsampling=0, **options)
        add(f"{name} without its last 4 bytes", "jpg", content[:-4], RGB, 20, "truncated")
    return found
