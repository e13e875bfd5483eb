"""Which of the visible objects sound, where they are and of what category, learnt without labels (CSOL)."""

STAGES = ("solo", "mixture")  # what their runs' folders have in the place of a method
