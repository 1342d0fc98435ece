"""Forgeries made of photographs and clips, with exact masks, authentic twins finished alike, and words for each.

``forge`` edits one picture, ``forge_folder`` makes a set of files, ``forge_clip`` a clip with an edited stretch;
``words_of`` and ``facts_of`` say what was done and read it back. Needs OpenCV (the extra ``forge``) where
``Method.cv2`` or a kind of region says so; ``plain`` needs none.
"""

from internvl_detect.data.forge.clips import forge_clip
from internvl_detect.data.forge.finish import Finish
from internvl_detect.data.forge.folder import ForgeResult, forge_folder
from internvl_detect.data.forge.methods import METHODS, Method, forge
from internvl_detect.data.forge.regions import KINDS, SIZES, Region, draw_region
from internvl_detect.data.forge.traces import measure, visible
from internvl_detect.data.forge.words import Facts, facts_of, facts_of_record, phrasings, place_of, words_of

__all__ = ["KINDS", "METHODS", "SIZES", "Facts", "Finish", "ForgeResult", "Method", "Region", "draw_region", "facts_of"]
__all__ += [
    "facts_of_record",
    "forge",
    "forge_clip",
    "forge_folder",
    "measure",
    "phrasings",
    "place_of",
    "visible",
    "words_of",
]
