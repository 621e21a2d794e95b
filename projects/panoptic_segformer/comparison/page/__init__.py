"""The page of a comparison: html, pictures and nothing else; it needs no server and no network."""

from .writing import write_page

__all__ = ["write_page"]
