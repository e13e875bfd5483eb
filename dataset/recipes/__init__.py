"""Recipes that make tensors of sound, pictures and words, and the noise on them."""
