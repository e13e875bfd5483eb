"""Which of the visible objects sound, where they are and of what category, learnt without labels (CSOL)."""
