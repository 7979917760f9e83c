"""Recipes by name: every module here holds one `RECIPE`."""
