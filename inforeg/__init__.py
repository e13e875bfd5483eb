"""InfoReg as a library: the regulation, the Fisher trace and window that it follows, and how much it holds."""

from inforeg.movement import Movement
from inforeg.regulation import InfoReg
from inforeg.window import FisherTrace, PrimeWindow

__all__ = ["FisherTrace", "InfoReg", "Movement", "PrimeWindow"]
