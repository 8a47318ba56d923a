"""Outputs of submodules that a change does not reach, kept from one evaluation of the model to the next."""

from gracile.search.memo.memo import Memo, Usage

__all__ = ["Memo", "Usage"]
