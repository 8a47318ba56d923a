"""A run that is under way, as a page: its evaluations and its trials so far, once or served until interrupted."""

from gracile.live.pages import store_page
from gracile.live.serving import serve

__all__ = ["serve", "store_page"]
