"""InfoReg as a library: the regulation, and the Fisher trace and prime learning window that it follows."""

from inforeg.regulation import InfoReg
from inforeg.window import FisherTrace, PrimeWindow

__all__ = ["FisherTrace", "InfoReg", "PrimeWindow"]
