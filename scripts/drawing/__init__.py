"""The paper's figures, each with the numbers behind it."""
