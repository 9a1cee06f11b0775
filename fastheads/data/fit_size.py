"""Pictures of one size without a change of their aspect, as the streaming paper makes them."""

from __future__ import annotations

from PIL import Image


def fit_size(image: Image.Image, size: int = 300, least: int = 250) -> Image.Image:
    """Scales a picture down to fit a square and pads it with black; refuses one that is too small.

    "Rescale all images to 300x300 without changing aspect ratio, padding all dimensions that were
    below 300 pixels but above 250 pixels, and discarding any image with a dimension below 250"
    (Huang, Scalable large scale visual recognition using multi-label image classification, MIT,
    2019, section 7.2). Read as: what is discarded follows from the picture as it came, since a
    photograph of 4 to 3 would be 225 pixels high once scaled; nothing is scaled up.

    Args:
        image: of any mode; it stays as it is.
        size: width and height of the result in pixels.
        least: how wide and how high ``image`` must be in pixels.

    Returns:
        ``size`` by ``size`` pixels of the mode of ``image``, the picture in the middle.

    Raises:
        ValueError: if the picture is less than ``least`` pixels wide or high.
    """
    width, height = image.size
    if min(width, height) < least:
        raise ValueError(
            f"image must be at least {least} pixels wide and high, got {width} x {height}"
        )
    fitting = image.copy()
    fitting.thumbnail((size, size), Image.Resampling.BICUBIC)
    padded = Image.new(image.mode, (size, size))
    padded.paste(fitting, ((size - fitting.width) // 2, (size - fitting.height) // 2))
    return padded
