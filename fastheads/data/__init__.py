"""Data sets: glyphs drawn from fonts, folders and tables of images, Open Images."""

from fastheads.data.augmentation import Augmentation, Normalize, eval_transform
from fastheads.data.config import DataConfig, load_data
from fastheads.data.folder import load_folder
from fastheads.data.glyphs import load_glyphs
from fastheads.data.images import Data, ImageDataset
from fastheads.data.open_images import load_open_images
from fastheads.data.sheet import contact_sheet, write_sheet
from fastheads.data.table import load_table
from fastheads.data.unicode import compositions

__all__ = [
    "Augmentation",
    "Data",
    "DataConfig",
    "ImageDataset",
    "Normalize",
    "compositions",
    "contact_sheet",
    "eval_transform",
    "load_data",
    "load_folder",
    "load_glyphs",
    "load_open_images",
    "load_table",
    "write_sheet",
]
