"""What becomes of a clip: sound, pictures and words as tensors, and noise on them."""
