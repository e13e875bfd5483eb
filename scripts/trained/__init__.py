"""Trained models: restoring them, and the conditions under which they are tested."""
