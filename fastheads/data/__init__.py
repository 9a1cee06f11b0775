"""Data sets: glyphs drawn from fonts, folders and tables of images, Open Images, Stanford Dogs."""

from fastheads.data.augmentation import Augmentation, Normalize, eval_transform
from fastheads.data.composed import load_composed
from fastheads.data.config import DataConfig, load_data
from fastheads.data.fit_size import fit_size
from fastheads.data.folder import load_folder
from fastheads.data.glyphs import load_glyphs
from fastheads.data.images import Data, ImageDataset
from fastheads.data.mixed import load_mixed
from fastheads.data.open_images import load_open_images
from fastheads.data.sheet import contact_sheet, write_sheet
from fastheads.data.stanford_dogs import load_stanford_dogs
from fastheads.data.stream import StreamData, StreamDataConfig, load_stream
from fastheads.data.table import load_table
from fastheads.data.unicode import compositions

__all__ = [
    "Augmentation",
    "Data",
    "DataConfig",
    "ImageDataset",
    "Normalize",
    "StreamData",
    "StreamDataConfig",
    "compositions",
    "contact_sheet",
    "eval_transform",
    "fit_size",
    "load_composed",
    "load_data",
    "load_folder",
    "load_glyphs",
    "load_mixed",
    "load_open_images",
    "load_stanford_dogs",
    "load_stream",
    "load_table",
    "write_sheet",
]
