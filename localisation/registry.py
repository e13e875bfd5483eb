"""The localisation data sets by name."""

from localisation.data import Localisation
from localisation.music import MUSIC
from localisation.scenes import Scenes

LOCALISATION: dict[str, type[Localisation]] = {"scenes": Scenes, "MUSIC": MUSIC}
