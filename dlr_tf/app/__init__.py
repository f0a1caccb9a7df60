"""The command `dlr-tf`."""
