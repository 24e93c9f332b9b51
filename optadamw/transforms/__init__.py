"""What a user chains: one atom or wrapper in each file, and `chain` itself."""
