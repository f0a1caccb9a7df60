"""What people do with the optimizer: freezing, callbacks, the range test, fine-tuning."""
