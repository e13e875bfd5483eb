"""What things cost: steps, data, evaluation, several processes."""
