"""What is printed while a command runs."""
