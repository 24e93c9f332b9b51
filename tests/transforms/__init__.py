"""What a user chains: its arguments and its errors."""
