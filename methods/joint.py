"""Joint training: the reference that every method is compared with (the base class, under its own name)."""

from methods.base import Method


class Joint(Method):
    """L = CE(z, y); with --unimodal_loss, plus one cross entropy per modality (the paper's starred rows, Table 3)."""
