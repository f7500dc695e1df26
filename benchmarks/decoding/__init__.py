"""Trials of the image decoders against damage, other decoders, mutations and slow files."""
