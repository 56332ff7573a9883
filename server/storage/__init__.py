"""Encoding pictures and keeping them in a folder."""
