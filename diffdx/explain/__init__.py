"""Explanations by generation."""
