"""The localisation data sets by name."""

from localisation.data import Localisation
from localisation.scenes import Scenes

LOCALISATION: dict[str, type[Localisation]] = {"scenes": Scenes}
