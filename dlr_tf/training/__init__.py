"""Training with the optimizer: freezing, callbacks, the range test, fine-tuning."""
